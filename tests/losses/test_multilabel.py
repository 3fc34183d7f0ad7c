"""What every multi-label loss promises, and the published figures of each."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cxrlt.losses import (
    LOSSES,
    AsymmetricLoss,
    BinaryCrossEntropy,
    RobustAsymmetricLoss,
    create_loss,
    population_minimiser,
)

VARIANTS = {
    "bce": lambda **k: BinaryCrossEntropy(**k),
    "weighted bce": lambda **k: BinaryCrossEntropy(pos_weight=[2.0, 1.0, 3.0, 1.0], **k),
    "asl": lambda **k: AsymmetricLoss(**k),
    "asl unshifted, fractional": lambda **k: AsymmetricLoss(gamma_neg=0.5, gamma_pos=0.5, clip=0, **k),
    "asl shifted, fractional": lambda **k: AsymmetricLoss(gamma_neg=0.5, gamma_pos=0.5, **k),
    "ral paper": lambda **k: RobustAsymmetricLoss(**k),
    "ral paper, weighted": lambda **k: RobustAsymmetricLoss(
        class_weights="prevalence", class_counts=[0, 1, 50, 100], n_samples=100, **k
    ),
    "ral released": lambda **k: RobustAsymmetricLoss(form="released", **k),
    "ral without hill, detached": lambda **k: RobustAsymmetricLoss(
        hill_lambda=None, detach_focusing=True, **k
    ),
}


@pytest.fixture(params=list(VARIANTS))
def make(request):
    return VARIANTS[request.param]


def batch(n=6, c=4):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, c, generator=generator) * 4
    return logits, (torch.rand(n, c, generator=generator) < 0.3).float()


def logit(p):
    return torch.tensor([[math.log(p / (1 - p))]], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("label", [0.0, 1.0, 0.3])
def test_value_and_gradient_are_finite_for_every_logit_in_every_dtype(make, dtype, label):
    logits = torch.linspace(-100, 100, 401).repeat(4, 1).T.to(dtype).requires_grad_()
    loss = make()(logits, torch.full_like(logits, label))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_autocast_does_not_change_the_value(make):
    logits, targets = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = make()(logits, targets)
    assert inside.dtype == torch.float32
    assert inside == make()(logits, targets)


def test_an_unknown_label_changes_nothing(make):
    logits, targets = batch()
    logits.requires_grad_()
    targets[2, 1] = float("nan")
    loss = make(reduction="sum")
    value = loss(logits, targets)
    value.backward()
    known = torch.where(targets.isnan(), 0.0, loss.elementwise(logits, targets.nan_to_num(0)))
    assert torch.isclose(value, known.sum())
    assert logits.grad[2, 1] == 0


@pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum"])
def test_a_batch_of_unknown_labels_gives_zero_and_zero_gradient(make, reduction):
    logits, targets = batch()
    logits.requires_grad_()
    loss = make(reduction=reduction)(logits, torch.full_like(targets, float("nan")))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_reductions_differ_by_their_denominators(make):
    logits, targets = batch()
    targets[0, 0] = float("nan")
    total = make(reduction="sum")(logits, targets)
    assert torch.isclose(make(reduction="batchmean")(logits, targets), total / 6)
    assert torch.isclose(make(reduction="mean")(logits, targets), total / 23)


def test_soft_labels_interpolate_between_the_hard_ones(make):
    logits, targets = batch()
    loss = make()
    soft = loss(logits, torch.full_like(targets, 0.25))
    mixed = 0.25 * loss(logits, torch.ones_like(targets)) + 0.75 * loss(logits, torch.zeros_like(targets))
    assert torch.isclose(soft, mixed)


def test_row_order_does_not_matter(make):
    logits, targets = batch()
    flipped = make()(logits.flip(0), targets.flip(0))
    assert torch.isclose(flipped, make()(logits, targets))


def test_inputs_are_left_as_they_were_and_no_grad_stays_off(make):
    logits, targets = batch()
    before = logits.clone(), targets.clone()
    with torch.no_grad():
        loss = make()(logits.requires_grad_(), targets)
        assert not torch.is_grad_enabled()
    assert not loss.requires_grad
    assert torch.equal(logits, before[0])
    assert torch.equal(targets, before[1])


def test_the_loss_of_a_negative_rises_with_its_probability(make):
    logits = torch.linspace(-4, 4, 50).repeat(4, 1).T
    loss = make().elementwise(logits, torch.zeros_like(logits))
    assert (loss.diff(dim=0) >= 0).all()


def test_gradients_are_the_derivative_of_the_value(make):
    logits, targets = batch()
    loss = make(reduction="sum")
    loss.detach_focusing = False  # a detached weight is not part of the derivative
    assert torch.autograd.gradcheck(lambda z: loss(z, targets.double()), logits.double().requires_grad_())


def test_detached_focusing_changes_gradients_but_not_values():
    logits, targets = batch()
    gradients = []
    for detach in (True, False):
        z = logits.clone().requires_grad_()
        value = AsymmetricLoss(detach_focusing=detach)(z, targets)
        value.backward()
        gradients.append((value, z.grad))
    assert gradients[0][0] == gradients[1][0]
    assert not torch.allclose(gradients[0][1], gradients[1][1])


def test_compiled_loss_gives_the_same_value(make):
    logits, targets = batch()
    compiled = torch.compile(make(), backend="aot_eager")
    assert torch.isclose(compiled(logits, targets), make()(logits, targets))


def test_asymmetric_loss_without_its_parts_is_cross_entropy():
    logits, targets = batch()
    plain = AsymmetricLoss(gamma_neg=0, gamma_pos=0, clip=0, reduction="mean")(logits, targets)
    assert torch.isclose(plain, F.binary_cross_entropy_with_logits(logits, targets))


def test_cross_entropy_equals_torch():
    logits, targets = batch()
    weight = torch.tensor([2.0, 1.0, 3.0, 0.5])
    ours = BinaryCrossEntropy(pos_weight=weight.tolist(), reduction="mean")(logits, targets)
    assert torch.isclose(ours, F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight))


@pytest.mark.parametrize(
    ("p", "label", "asl", "paper", "released"),
    [
        (0.05, 0, (0, 0), (0, 0), (0, 0)),
        (0.2, 0, (8.23e-5, 4.5e-4), (1.07e-4, 5.7e-4), (2.78e-6, 2.0e-5)),
        (0.5, 0, (2.45e-2, 7.3e-2), (2.45e-2, 6.7e-2), (5.82e-3, 2.33e-2)),
        (0.9, 0, (0.990, 0.733), (0.594, 0.350), (0.650, 0.556)),
        (0.99, 0, (2.20, 0.221), (1.12, 0.091), (1.58, 0.171)),
        (0.02, 1, (3.83, -1.04), (4.13, -1.01), (4.13, -1.01)),
        (0.5, 1, (0.347, -0.423), (0.506, -0.5625), (0.506, -0.5625)),
        (0.9, 1, (1.05e-2, -1.95e-2), (1.79e-2, -3.25e-2), (1.79e-2, -3.25e-2)),
    ],
)
def test_values_and_gradients_equal_the_published_table(p, label, asl, paper, released):
    losses = (
        (AsymmetricLoss(), asl),
        (RobustAsymmetricLoss(), paper),
        (RobustAsymmetricLoss("released"), released),
    )
    for loss, (value, gradient) in losses:
        z = logit(p)
        out = loss(z, torch.full_like(z, label))
        out.backward()
        # clip = .05 puts p = .05 on the edge of the dead zone, where rounding decides
        assert out.item() == pytest.approx(value, rel=6e-3, abs=1e-12)
        assert z.grad.item() == pytest.approx(gradient, rel=2.5e-2, abs=1e-12)


def test_ral_positive_gradient_has_its_closed_form():
    z = torch.linspace(-8, 8, 33, dtype=torch.float64)[:, None].requires_grad_()
    RobustAsymmetricLoss(reduction="sum")(z, torch.ones_like(z)).backward()
    p = torch.sigmoid(z.detach())
    assert torch.allclose(z.grad, -((1 - p) ** 2) * (1 + 2.5 * p), atol=1e-12)


def test_the_sum_at_the_start_is_what_the_papers_users_report():
    targets = torch.zeros(64, 26)
    targets[:, :2] = 1
    expected = {"bce": 1153, "asl": 82}
    for name, value in expected.items():
        assert LOSSES[name].loss(reduction="sum")(torch.zeros(64, 26), targets).item() == pytest.approx(
            value, abs=0.6
        )
    released = RobustAsymmetricLoss("released", reduction="sum")(torch.zeros(64, 26), targets)
    assert released.item() == pytest.approx(74, abs=0.6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (BinaryCrossEntropy(), [0.002, 0.01, 0.05, 0.1, 0.3]),
        (AsymmetricLoss(), [0.248, 0.321, 0.417, 0.468, 0.570]),
        (RobustAsymmetricLoss(), [0.245, 0.324, 0.434, 0.494, 0.619]),
        (RobustAsymmetricLoss("released"), [0.346, 0.422, 0.514, 0.562, 0.654]),
    ],
)
def test_population_minimisers_equal_the_measured_table(loss, expected):
    prevalence = torch.tensor([0.002, 0.01, 0.05, 0.1, 0.3])
    targets = prevalence.expand(100_000, 5)
    assert np.allclose(torch.sigmoid(population_minimiser(loss, targets)), expected, atol=6e-4)


def test_class_counts_are_put_in_column_order_by_name():
    options = {"classes": ["a", "b"], "n_samples": 10, "class_weights": "prevalence"}
    straight = create_loss("asl", class_counts={"a": 1, "b": 9}, **options)
    turned = create_loss("asl", class_counts={"b": 9, "a": 1}, **options)
    assert torch.equal(straight.positive_weight, turned.positive_weight)
    assert straight.positive_weight[0] == pytest.approx(math.exp(0.9))
    assert straight.negative_weight[0] == pytest.approx(math.exp(0.1))


@pytest.mark.parametrize(
    ("name", "counts", "options", "sentence"),
    [
        ("asll", {"a": 1}, {}, "did you mean 'asl'"),
        ("asl", {"a": 1}, {"gama_neg": 2}, "did you mean 'gamma_neg'"),
        ("asl", {}, {}, r"missing \['a'\]"),
        ("asl", {"a": 1, "b": 2}, {}, r"unknown \['b'\]"),
        ("asl", {"a": 1}, {"reduction": "average"}, "choose one of mean, batchmean, sum"),
        ("ral", {"a": 1}, {"form": "code"}, "choose one of paper, released"),
    ],
)
def test_a_wrong_name_option_or_class_is_an_error_that_names_the_right_ones(name, counts, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        create_loss(name, classes=["a"], class_counts=counts, n_samples=10, **options)
