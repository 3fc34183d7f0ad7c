"""Where a classifier that sees nothing starts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_cases import CASES, COUNTS, N_SAMPLES, Case

from cxrlt.losses import (
    AsymmetricLoss,
    AsymmetricPolynomialLoss,
    BinaryCrossEntropy,
    ClassAwareLoss,
    DistributionBalancedLoss,
    FocalLoss,
    HillLoss,
    RobustAsymmetricLoss,
    population_minimiser,
)

PREVALENCE = torch.tensor([0.002, 0.01, 0.05, 0.1, 0.3, 0.5])
NAN = float("nan")


def training_rows(case: Case) -> torch.Tensor:
    """Rows (n, c) with the counts of the cases; the first class is absent."""
    if case.exclusive:
        ids = torch.arange(4).repeat_interleave(torch.tensor(list(COUNTS.values())))
        return F.one_hot(ids, 4).float()
    return (torch.arange(N_SAMPLES)[:, None] < torch.tensor(list(COUNTS.values()))).float()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (BinaryCrossEntropy(), [0.002, 0.01, 0.05, 0.1, 0.3, 0.5]),
        (FocalLoss(), [0.092, 0.154, 0.250, 0.306, 0.421, 0.5]),
        (AsymmetricLoss(), [0.248, 0.321, 0.417, 0.468, 0.570]),
        (AsymmetricPolynomialLoss(), [0.253, 0.330, 0.433, 0.488, 0.598]),
        (RobustAsymmetricLoss(), [0.245, 0.324, 0.434, 0.494, 0.619]),
        (RobustAsymmetricLoss("released"), [0.346, 0.422, 0.514, 0.562, 0.654]),
        (HillLoss(), [0.027, 0.065, 0.169, 0.275, 0.774]),
        (
            ClassAwareLoss(class_counts=[200, 1000, 5000, 10_000, 30_000, 50_000], n_samples=100_000),
            [0.637, 0.634, 0.622, 0.612, 0.588, 0.572],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_population_minimisers_equal_the_measured_table(loss, expected):
    start = population_minimiser(loss, PREVALENCE.expand(500_000, 6))
    assert np.allclose(torch.sigmoid(start)[: len(expected)], expected, atol=6e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_near_the_minimiser_is_lower(case):
    """Half a row of both labels, or of every class, is what the minimiser adds for absent classes."""
    rows = training_rows(case).double()
    if case.exclusive:
        rows = torch.cat([rows, 0.5 * torch.eye(4)])
    loss = case.make(reduction="sum" if not case.exclusive else "mean")
    start = population_minimiser(loss, training_rows(case))
    assert torch.isfinite(start).all()
    assert (start.abs() <= 12).all()

    def expected(logits):
        if case.exclusive:
            return loss(logits.expand(len(rows), 4), rows)
        weights = loss.entry_weights(rows)
        weights = torch.ones_like(rows) if weights is None else weights
        half = weights.mean(dim=0) / 2
        positive = ((weights * rows).sum(dim=0) + half) * loss.positive(logits)
        return (positive + ((weights * (1 - rows)).sum(dim=0) + half) * loss.negative(logits)).sum()

    least = expected(start.double()[None])
    generator = torch.Generator().manual_seed(0)
    for spread in (0.03, 0.3, 3):
        for _ in range(30):
            other = start.double() + spread * torch.randn(4, generator=generator)
            assert expected(other[None]) >= least - 1e-6 * least


@pytest.mark.parametrize("name", ["bce", "ce"])
def test_cross_entropy_starts_at_the_class_shares(name):
    case = Case(name)
    rows = training_rows(case)
    start = population_minimiser(case.make(), rows)
    if case.exclusive:
        shares = (rows.sum(dim=0) + 0.5) / (len(rows) + 2)
        assert torch.allclose(torch.softmax(start, dim=0), shares, atol=1e-5)
        assert abs(start.mean()) < 1e-5
    else:
        shares = (rows.sum(dim=0) + 0.5) / (len(rows) + 1)
        assert torch.allclose(torch.sigmoid(start), shares, atol=1e-5)


@pytest.mark.parametrize("name", ["balanced_softmax", "logit_adjusted"])
def test_losses_with_a_prior_start_at_equal_logits(name):
    counts = {"a": 4000, "b": 400, "c": 40}
    rows = F.one_hot(torch.arange(3).repeat_interleave(torch.tensor(list(counts.values()))), 3)
    start = population_minimiser(Case(name).make(counts=counts), rows)
    assert torch.allclose(start, torch.zeros(3), atol=0.02)


@pytest.mark.parametrize("name", ["asl", "db", "ral_single", "lmf"])
def test_unknown_labels_do_not_move_the_minimiser(name):
    case = Case(name)
    rows = training_rows(case)
    unknown = torch.full((20, 4), NAN)
    loss = case.make()
    assert torch.equal(
        population_minimiser(loss, torch.cat([rows, unknown])), population_minimiser(loss, rows)
    )


def test_the_minimiser_of_distribution_balanced_uses_the_row_weights():
    rows = (torch.arange(4000)[:, None] % torch.tensor([2, 7, 50]) == 0).float()
    counts = rows.sum(dim=0).tolist()
    loss = DistributionBalancedLoss(class_counts=counts, n_samples=4000, reduction="sum")
    logits = population_minimiser(loss, rows).clone().requires_grad_()
    loss(logits.expand(4000, 3), rows).backward()
    assert (logits.grad.abs() < 1e-3 * 4000).all()


def test_an_epoch_that_reweights_moves_the_minimiser():
    case = Case("ldam", {"reweight_epoch": 1})
    loss, rows = case.make(), training_rows(case)
    before = population_minimiser(loss, rows)
    loss.set_epoch(1)
    assert not torch.allclose(population_minimiser(loss, rows), before)
