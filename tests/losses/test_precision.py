"""Losses keep value and gradient in every precision, on every device and at every logit."""

import pytest
import torch
import torch.nn.functional as F
from loss_cases import (
    CASES,
    DEFAULTS,
    N_CLASSES,
    Case,
    batch,
    extreme_logits,
    uniform_labels,
    value_and_gradient,
)

from cxrlt.losses import MultiLabelLoss, SingleLabelLoss

each_case = pytest.mark.parametrize("case", CASES, ids=str)


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_value_and_gradient_are_finite_for_every_logit_in_every_dtype(case, dtype):
    logits = extreme_logits().to(dtype)
    loss = case.make(reduction="sum")
    soft = torch.full((len(logits), N_CLASSES), 1 / N_CLASSES)
    for targets in (*uniform_labels(case, len(logits)), soft):
        value, gradient = value_and_gradient(loss, logits, targets)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.isfinite(value)
        assert gradient.dtype == dtype
        assert torch.isfinite(gradient).all()


@each_case
def test_a_positive_with_a_very_low_logit_has_a_gradient(case):
    logits = torch.zeros(N_CLASSES, N_CLASSES).fill_diagonal_(-100)
    _, gradient = value_and_gradient(case.make(reduction="sum"), logits, torch.eye(N_CLASSES))
    assert (gradient.diagonal() < -1e-3).all()


@each_case
def test_autocast_does_not_change_value_or_gradient(case):
    logits, loss = extreme_logits(), case.make()
    for targets in uniform_labels(case, len(logits)):
        outside = value_and_gradient(loss, logits, targets)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = value_and_gradient(loss, logits, targets)
        assert inside[0].dtype == torch.float32
        assert inside[0] == outside[0]
        assert torch.equal(inside[1], outside[1])


class MixedLogits(MultiLabelLoss):
    """Matrix products are what autocast shortens."""

    def positive_term(self, logits):
        return F.softplus(-logits @ logits.T @ logits)

    def negative_term(self, logits):
        return F.softplus(logits)


class MixedClasses(SingleLabelLoss):
    def per_class(self, logits):
        return -F.log_softmax(logits @ logits.T @ logits, dim=1)


@pytest.mark.parametrize("loss", [MixedLogits(), MixedClasses()], ids=lambda loss: type(loss).__name__)
def test_autocast_does_not_change_a_matrix_product_inside_a_loss(loss):
    logits, targets = batch(DEFAULTS[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, targets)
    assert inside == loss(logits, targets)


@pytest.mark.parametrize("name", ["asl", "apl", "ral", "ral_single"])
@pytest.mark.parametrize("clip", [0, 0.5])
def test_a_fractional_focusing_exponent_has_a_finite_gradient_at_zero(name, clip):
    loss = Case(name).make(gamma_neg=0.5, clip=clip, detach_focusing=False)
    logits = torch.tensor([[0.0, 0.0, -300.0, -300.0]])  # p = clip, p = 0
    _, gradient = value_and_gradient(loss, logits, torch.tensor([[0.0, 0, 0, 1]]))
    assert torch.isfinite(gradient).all()


@each_case
def test_double_precision_differs_from_single_only_by_rounding(case):
    logits, targets = batch(case)
    loss = case.make()
    assert torch.isclose(loss(logits.double(), targets).float(), loss(logits, targets), rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_case
def test_a_gpu_gives_what_the_cpu_gives(case):
    logits = extreme_logits()
    for targets in uniform_labels(case, len(logits)):
        value, gradient = value_and_gradient(case.make(), logits, targets)
        with torch.autocast("cuda", dtype=torch.float16):
            there, slope = value_and_gradient(case.make().cuda(), logits.cuda(), targets.cuda())
        assert torch.isclose(there.cpu(), value, rtol=1e-4)
        assert torch.allclose(slope.cpu(), gradient, rtol=1e-3, atol=1e-6)
