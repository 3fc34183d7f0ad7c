"""Losses against figures measured on the published code."""

import math

import numpy as np
import pytest
import torch
from loss_cases import value_and_gradient

from cxrlt.losses import (
    AsymmetricLoss,
    AsymmetricPolynomialLoss,
    BinaryCrossEntropy,
    ClassAwareLoss,
    CrossEntropy,
    DistributionBalancedLoss,
    FocalLoss,
    HillLoss,
    LDAMLoss,
    LMFLoss,
    RobustAsymmetricLoss,
    RobustAsymmetricSingleLabelLoss,
)


def logit(p):
    return torch.tensor([[math.log(p / (1 - p))]], dtype=torch.float64)


TABLE_LOSSES = (
    BinaryCrossEntropy(),
    AsymmetricLoss(),
    RobustAsymmetricLoss(),
    RobustAsymmetricLoss("released"),
    HillLoss(),
)
# value and slope of each at p and label; clip .05 puts p = .05 on the edge, where rounding decides
TABLE = [
    (0.05, 0, [(5.13e-2, 0.05), (0, 0), (0, 0), (0, 0), (3.6e-3, 6.8e-3)]),
    (0.2, 0, [(0.223, 0.2), (8.23e-5, 4.5e-4), (1.07e-4, 5.7e-4), (2.78e-6, 2.0e-5), (5.2e-2, 7.7e-2)]),
    (0.5, 0, [(0.693, 0.5), (2.45e-2, 7.3e-2), (2.45e-2, 6.7e-2), (5.82e-3, 2.33e-2), (0.25, 0.188)]),
    (0.9, 0, [(2.30, 0.9), (0.990, 0.733), (0.594, 0.350), (0.650, 0.556), (0.486, 2.4e-2)]),
    (0.99, 0, [(4.61, 0.99), (2.20, 0.221), (1.12, 0.091), (1.58, 0.171), (0.500, 2.9e-4)]),
    (0.02, 1, [(3.91, -0.98), (3.83, -1.04), (4.13, -1.01), (4.13, -1.01), (4.83, -1.05)]),
    (0.5, 1, [(0.693, -0.5), (0.347, -0.423), (0.506, -0.5625), (0.506, -0.5625), (0.702, -0.768)]),
    (
        0.9,
        1,
        [(0.105, -0.1), (1.05e-2, -1.95e-2), (1.79e-2, -3.25e-2), (1.79e-2, -3.25e-2), (1.42e-2, -3.4e-2)],
    ),
]


@pytest.mark.parametrize(("p", "label", "row"), TABLE)
def test_values_and_gradients_equal_the_measured_table(p, label, row):
    for loss, (expected, expected_slope) in zip(TABLE_LOSSES, row, strict=True):
        value, slope = value_and_gradient(loss, logit(p), torch.full((1, 1), float(label)))
        assert value.item() == pytest.approx(expected, rel=1.5e-2, abs=1e-12)
        assert slope.item() == pytest.approx(expected_slope, rel=2.5e-2, abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (BinaryCrossEntropy(reduction="sum"), 1153),
        (FocalLoss(reduction="sum"), 288),
        (AsymmetricLoss(reduction="sum"), 82),
        (AsymmetricLoss(gamma_pos=0, reduction="sum"), 126),
        (AsymmetricPolynomialLoss(reduction="sum"), 102),
        (RobustAsymmetricLoss("released", reduction="sum"), 74),
        (HillLoss(reduction="sum"), 474),
    ],
)
def test_the_initial_sum_is_what_users_of_the_paper_report(loss, expected):
    targets = torch.zeros(64, 26)
    targets[:, :2] = 1
    assert loss(torch.zeros(64, 26), targets).item() == pytest.approx(expected, abs=0.5)


def test_asymmetric_gradients_on_a_small_batch_have_the_measured_length():
    logits = torch.linspace(-6, 6, 24, dtype=torch.float64).reshape(4, 6)
    i, j = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    targets = ((3 * i + 5 * j + i * j) % 4 == 0).double()
    for detach, expected in ((True, 1.535), (False, 2.042)):
        loss = AsymmetricLoss(detach_focusing=detach, reduction="sum")
        _, gradient = value_and_gradient(loss, logits, targets)
        assert gradient.norm().item() == pytest.approx(expected, abs=5e-4)


def test_the_robust_positive_gradient_has_its_closed_form():
    z = torch.linspace(-30, 30, 121, dtype=torch.float64)[:, None]
    _, gradient = value_and_gradient(RobustAsymmetricLoss(reduction="sum"), z, torch.ones_like(z))
    p = torch.sigmoid(z)
    assert torch.allclose(gradient, -(torch.sigmoid(-z) ** 2) * (1 + 2.5 * p), rtol=1e-9, atol=1e-15)


SIX_ROWS = np.array([[3 * math.cos(0.9 * i - 0.4 * j) for j in range(5)] for i in range(6)])
SIX_CLASSES = torch.tensor([3 * i % 5 for i in range(6)])
FIVE_COUNTS = {"class_counts": [1000, 316, 100, 31, 10]}


@pytest.mark.parametrize(("spread", "ldam", "focal"), [(1, 22.56, 0.267), (3, 11.96, 0.263)])
def test_the_two_means_of_lmf_are_those_of_the_released_code(spread, ldam, focal):
    logits = torch.tensor(SIX_ROWS / spread)
    parts = LMFLoss(alpha=1, **FIVE_COUNTS)
    means = parts.sums(logits, SIX_CLASSES) / parts.denominators(SIX_CLASSES)
    assert means.tolist() == pytest.approx([ldam, focal], abs=5e-3)
    assert means[1].item() == pytest.approx(focal, abs=5e-4)
    assert LDAMLoss(class_weights="margins", **FIVE_COUNTS)(logits, SIX_CLASSES).item() == pytest.approx(
        ldam, abs=5e-3
    )
    shipped = LMFLoss(**FIVE_COUNTS)(logits, SIX_CLASSES)
    assert torch.isclose(shipped, 1.5 * means[0] + means[1])


def test_cross_entropy_with_and_without_smoothing_has_the_measured_value():
    logits = torch.tensor(SIX_ROWS)
    assert 0.92 * CrossEntropy()(logits, SIX_CLASSES).item() == pytest.approx(1.3064, abs=5e-5)
    assert CrossEntropy(label_smoothing=0.1)(logits, SIX_CLASSES).item() == pytest.approx(1.4863, abs=5e-5)


def test_the_single_label_robust_loss_is_finite_where_the_published_one_is_not():
    logits = torch.tensor([[200.0, -200, 0, 0, 0]])
    for label in range(5):
        value, gradient = value_and_gradient(RobustAsymmetricSingleLabelLoss(), logits, torch.tensor([label]))
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


def test_prevalence_weights_are_those_of_the_2023_winner():
    loss = AsymmetricLoss(class_weights="prevalence", class_counts=[337, 2, 0], n_samples=1000)
    plain = AsymmetricLoss()
    z = torch.tensor([[1.0, 1.0, 1.0]])
    assert (loss.positive(z) / plain.positive(z))[0].tolist() == pytest.approx([1.94, 2.71, math.e], abs=5e-3)
    assert (loss.negative(z) / plain.negative(z))[0].tolist() == pytest.approx([1.40, 1.002, 1], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "weight"), [({}, 0.0004), ({"decoupled": False}, 0.71), ({"base": 0.5}, 0.13)]
)
def test_the_weight_of_a_rare_classs_negative_depends_on_its_base(options, weight):
    loss = ClassAwareLoss(margin=0, class_counts=[2], n_samples=1000, **options)
    negative = loss.negative(logit(0.2)).item() / -math.log(0.8)
    assert negative == pytest.approx(weight, rel=0.12)


def test_inverse_frequency_weights_of_the_class_aware_loss_have_mean_one():
    counts = {"class_counts": [625, 1], "n_samples": 1000}
    z = torch.zeros(1, 2)
    weighted, plain = (ClassAwareLoss(class_weights=w, **counts) for w in ("inverse_frequency", "uniform"))
    for sign in ("positive", "negative"):
        ratio = getattr(weighted, sign)(z) / getattr(plain, sign)(z)
        assert ratio[0].tolist() == pytest.approx([1 / 3, 5 / 3])


def test_distribution_balanced_weights_follow_the_labels_of_the_row():
    loss = DistributionBalancedLoss(class_counts=[100, 10, 0], n_samples=1000)
    targets = torch.tensor([[1.0, 1, 0], [0, 0, 0], [1, float("nan"), 0], [0.5, 0, 0]], dtype=torch.float64)
    ratios = [[0.01 / 0.11, 0.1 / 0.11, 1 / 0.11], [math.inf] * 3, [1, 10, 100], [2, 20, 200]]
    expected = [[0.1 + 1 / (1 + math.exp(-10 * (r - 0.2))) for r in row] for row in ratios]
    assert np.allclose(loss.entry_weights(targets), expected)


def test_distribution_balanced_loss_has_timms_values():
    timm_loss = pytest.importorskip("timm.loss")
    if not hasattr(timm_loss, "DistributionBalancedLoss"):
        pytest.skip("this timm has none")
    counts, generator = [0, 3, 10, 40, 100], torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator) * 3
    targets = (torch.rand(8, 5, generator=generator) < 0.4).float()
    targets[0] = 0
    theirs = timm_loss.DistributionBalancedLoss(counts, 100, reduction="none")(logits, targets)
    ours = DistributionBalancedLoss(class_counts=counts, n_samples=100).elementwise(logits, targets)
    assert torch.allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_weighted_cross_entropy_equals_torch(smoothing):
    logits, ids = torch.tensor(SIX_ROWS), torch.tensor([0, 4, 4, 1, 2, 3])
    rarity = [1 / (1 - 0.9999**n) for n in FIVE_COUNTS["class_counts"]]
    weight = torch.tensor([5 * r / sum(rarity) for r in rarity], dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(logits, ids, weight=weight, label_smoothing=smoothing)
    assert torch.isclose(CrossEntropy("effective", smoothing, **FIVE_COUNTS)(logits, ids), expected)


def test_deferred_weights_come_with_their_epoch_and_divide_the_sum():
    logits, ids = torch.tensor(SIX_ROWS), torch.tensor([0, 4, 4, 1, 2, 3])
    deferred = LDAMLoss(reweight_epoch=2, **FIVE_COUNTS)
    uniform = LDAMLoss(**FIVE_COUNTS)
    effective = LDAMLoss(class_weights="effective", **FIVE_COUNTS)
    for epoch, expected in ((0, uniform), (1, uniform), (2, effective), (9, effective), (1, uniform)):
        deferred.set_epoch(epoch)
        assert deferred(logits, ids) == expected(logits, ids)
        assert deferred.denominators(ids) == expected.denominators(ids)
    assert uniform.denominators(ids) == 6
    assert LDAMLoss(reweight_epoch=0, **FIVE_COUNTS)(logits, ids) == effective(logits, ids)
    assert effective.denominators(ids) != 6


def test_pos_weight_per_class_equals_torch():
    logits, targets = torch.linspace(-3, 4, 15).reshape(5, 3), torch.eye(3)[[0, 1, 2, 2, 0]]
    weight = [0.0, 1.5, 40.0]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, pos_weight=torch.tensor(weight)
    )
    assert torch.isclose(BinaryCrossEntropy(pos_weight=weight, reduction="mean")(logits, targets), expected)
    with pytest.raises(ValueError, match="one number >= 0, or one per class"):
        BinaryCrossEntropy(pos_weight=[weight])
