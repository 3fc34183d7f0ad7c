"""What every registered loss promises, at its defaults and at each of its variants."""

import pytest
import torch
import torch.nn.functional as F
from loss_cases import (
    CASES,
    COUNTS,
    DEFAULTS,
    N_CLASSES,
    N_SAMPLES,
    REDUCTIONS,
    Case,
    batch,
    uniform_labels,
    value_and_gradient,
)

NAN = float("nan")
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_default = pytest.mark.parametrize("case", DEFAULTS, ids=str)


@each_case
def test_a_batch_of_one_row_is_enough(case):
    logits, _ = batch(case, n=1)
    for targets in uniform_labels(case, 1):
        value, gradient = value_and_gradient(case.make(), logits, targets)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@each_case
def test_inputs_are_left_as_they_were_and_no_grad_stays_off(case):
    logits, targets = batch(case)
    targets[0, 0] = NAN
    before = logits.clone(), targets.clone()
    with torch.no_grad():
        value = case.make()(logits.requires_grad_(), targets)
        assert not torch.is_grad_enabled()
    case.make()(logits, targets)
    assert torch.is_grad_enabled()
    assert not value.requires_grad
    assert torch.equal(logits, before[0])
    assert torch.equal(targets.nan_to_num(9), before[1].nan_to_num(9))


@each_case
def test_row_order_does_not_matter(case):
    logits, targets = batch(case)
    assert torch.isclose(case.make()(logits.flip(0), targets.flip(0)), case.make()(logits, targets))


@each_case
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_unknown_label_hides_its_logit(case, reduction):
    logits, targets = batch(case)
    targets[2, 1] = NAN
    loss = case.make(reduction=reduction)
    value, gradient = value_and_gradient(loss, logits, targets)
    other = logits.clone()
    other[2, 1] += 3
    assert gradient[2, 1] == 0
    assert value == loss(other, targets)
    if case.exclusive:
        known = [0, 1, 3, 4, 5, 6]
        assert not gradient[2].any()
        assert torch.isclose(value, loss(logits[known], targets[known]))


@pytest.mark.parametrize("case", [c for c in CASES if not c.exclusive], ids=str)
def test_an_unknown_label_leaves_the_other_entries_as_they_are(case):
    logits, targets = batch(case)
    targets[2, 1] = NAN
    loss = case.make()
    entries = loss.elementwise(logits, targets)
    known = ~targets.isnan()
    assert torch.equal(entries[known], loss.elementwise(logits, targets.nan_to_num(0))[known])
    assert entries[2, 1] == 0


@each_case
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_batch_of_unknown_labels_gives_zero_and_zero_gradient(case, reduction):
    logits, targets = batch(case)
    value, gradient = value_and_gradient(
        case.make(reduction=reduction), logits, torch.full_like(targets, NAN)
    )
    assert value == 0
    assert not gradient.any()


@each_case
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_parts_of_a_batch_add_up_to_its_gradient(case, reduction):
    logits, targets = batch(case)
    targets[0, 0] = NAN
    loss = case.make(reduction=reduction)
    value, gradient = value_and_gradient(loss, logits, targets)
    parts = logits.clone().requires_grad_()
    total = torch.zeros(())
    for rows in (slice(0, 2), slice(2, 7)):
        part = (loss.sums(parts[rows], targets[rows]) / loss.denominators(targets)).sum()
        part.backward()
        total += part.detach()
    assert torch.isclose(total, value)
    assert torch.allclose(parts.grad, gradient, rtol=1e-5, atol=1e-8)


@each_case
def test_reductions_differ_by_their_denominators(case):
    logits, targets = batch(case)
    targets[0, 0] = NAN
    sums, mean, batchmean = (case.make(reduction=r) for r in ("sum", "mean", "batchmean"))
    parts = sums.sums(logits, targets)
    assert torch.isclose(sums(logits, targets), parts.sum())
    assert torch.isclose(mean(logits, targets), (parts / mean.denominators(targets)).sum())
    if case.exclusive:
        assert batchmean(logits, targets) == mean(logits, targets)
    else:
        assert torch.isclose(batchmean(logits, targets), parts.sum() / 7)
        assert mean.denominators(targets).tolist() == [27]


@each_case
def test_a_mean_of_equal_rows_is_that_of_one(case):
    logits, targets = batch(case, n=1)
    loss = case.make()
    assert torch.isclose(loss(logits.repeat(5, 1), targets.repeat(5, 1)), loss(logits, targets))


@each_case
def test_the_loss_is_linear_in_soft_labels(case):
    loss = case.make(reduction="sum")
    logits, targets = batch(case)
    other = targets.roll(1, dims=1)
    mixed = 0.3 * targets + 0.7 * other
    if case.exclusive or case.registration.linear:
        line = 0.3 * loss(logits, targets) + 0.7 * loss(logits, other)
        assert torch.isclose(loss(logits, mixed), line)
    else:
        soft, one, two = (
            loss.elementwise(logits, labels) / loss.entry_weights(labels)
            for labels in (mixed, targets, other)
        )
        assert torch.allclose(soft, 0.3 * one + 0.7 * two, rtol=1e-5)


@each_case
@pytest.mark.parametrize("counts", [[0] * 4, [N_SAMPLES] * 4, [0, 1, N_SAMPLES, 0]], ids=str)
def test_no_class_count_makes_the_loss_infinite(case, counts):
    loss = case.make(counts=dict(zip(COUNTS, counts, strict=True)))
    logits, targets = batch(case)
    value, gradient = value_and_gradient(loss, logits, targets)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert gradient.any()


@each_case
def test_gradients_are_the_derivative_of_the_value(case):
    registration = case.registration
    loss = case.make(reduction="mean", **({registration.detach: False} if registration.detach else {}))
    logits, targets = batch(case, dtype=torch.float64)
    logits = logits / 2
    targets[0, 0] = NAN
    if registration.kink:
        p = torch.softmax(logits, dim=1) if case.exclusive else torch.sigmoid(logits)
        assert ((p - case.option(registration.kink)).abs() > 1e-4).all()
    assert torch.autograd.gradcheck(lambda z: loss(z, targets), logits.requires_grad_())


def falls(case: Case) -> list[str]:
    """Where, between logits of -20 and 20, a wrong label's loss falls or a right one's rises."""
    steps = torch.linspace(-20, 20, 801, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    found = []
    for moved in range(N_CLASSES):
        rows = torch.randn(N_CLASSES, generator=generator, dtype=torch.float64).repeat(len(steps), 1) * 3
        rows[:, moved] = steps
        loss = case.make()
        right = loss.per_class(rows) if case.exclusive else loss.positive(rows)
        wrong = right if case.exclusive else loss.negative(rows)
        found += [f"right {moved}"] * bool((right[:, moved].diff() > 1e-12).any())
        others = [j for j in range(N_CLASSES) if j != moved] if case.exclusive else [moved]
        found += [f"wrong {moved}"] * bool((wrong[:, others].diff(dim=0) < -1e-12).any())
    return found


@each_default
def test_a_loss_is_monotone_at_the_defaults_unless_declared(case):
    declared = any(not options for options, _ in case.registration.non_monotone)
    assert bool(falls(case)) == declared


DECLARED = [
    (Case(c.name, dict(options)), why) for c in DEFAULTS for options, why in c.registration.non_monotone
]


@pytest.mark.parametrize(("case", "why"), DECLARED, ids=lambda value: str(value)[:40])
def test_a_declared_non_monotone_loss_is_not_monotone(case, why):
    assert why
    assert falls(case)


@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.registration.neutral is not None], ids=str)
def test_the_neutral_setting_is_cross_entropy(case):
    equal = dict.fromkeys(COUNTS, 15)
    loss = case.make(counts=equal, reduction="mean", **case.registration.neutral)
    logits, targets = batch(case)
    value, gradient = value_and_gradient(loss, logits, targets)
    reference = F.cross_entropy if case.exclusive else F.binary_cross_entropy_with_logits
    expected, slope = value_and_gradient(reference, logits, targets)
    assert torch.isclose(value, expected)
    assert torch.allclose(gradient, slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("case", [c for c in CASES if c.exclusive], ids=str)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_class_ids_mean_the_same_as_one_hot_rows(case, dtype):
    logits, targets = batch(case)
    ids = targets.argmax(dim=1).to(dtype)
    if dtype == torch.float32:
        ids[1] = targets[1, 0] = NAN
    loss = case.make()
    assert torch.equal(loss(logits, ids), loss(logits, targets))
    assert torch.equal(loss.denominators(ids), loss.denominators(targets))


@each_default
def test_a_wrong_shape_is_an_error_that_names_it(case):
    logits, targets = batch(case)
    with pytest.raises(ValueError, match=r"\(7, 3\)"):
        case.make()(logits, targets[:, :3])
