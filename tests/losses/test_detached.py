"""Losses that stop the gradient through a weight, against gradients written out by hand."""

import numpy as np
import pytest
import torch
from loss_cases import COUNTS, DEFAULTS, N_SAMPLES, Case, batch, value_and_gradient
from scipy.special import expit, softmax

A = np.clip(np.array(list(COUNTS.values())), 1, N_SAMPLES - 1) / N_SAMPLES


def shifted(p, clip):
    return np.maximum(p - clip, 0)


# dL+/dp and dL-/dp at the defaults with the weight held
HELD = {
    "asl": (
        lambda p: -(1 - p) / p,
        lambda p: shifted(p, 0.05) ** 4 / (1 - shifted(p, 0.05)),
    ),
    "apl": (
        lambda p: -1 / p + 1 - 2.5 * (1 - p),
        lambda p: shifted(p, 0.05) ** 4 / (1 - shifted(p, 0.05)),
    ),
    "ral": (
        lambda p: -1 / p + 1 - 2.5 * (1 - p),
        lambda p: shifted(p, 0.05) ** 4 * (np.log(1 - shifted(p, 0.05)) + (1.5 - p) / (1 - shifted(p, 0.05))),
    ),
    "class_aware": (
        lambda p: -(1 - A ** (1 - p)) / p,
        lambda p: (p > 0.2) * (1 - (1 - A) ** p) / (1 - shifted(p, 0.2)),
    ),
}
HELD["ral_single"] = HELD["ral"]


def written_gradient(case: Case, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    right, wrong = HELD[case.name]
    if case.exclusive:
        p = softmax(z, axis=1)
        slope = y * right(p) + (1 - y) * wrong(p)
        return p * (slope - (slope * p).sum(axis=1, keepdims=True))
    p = expit(z)
    return (y * right(p) + (1 - y) * wrong(p)) * p * (1 - p)


detaching = pytest.mark.parametrize("case", [c for c in DEFAULTS if c.registration.detach], ids=str)


@detaching
def test_the_gradient_with_a_detached_weight_equals_the_formula(case):
    logits, targets = batch(case, n=40, dtype=torch.float64)
    loss = case.make(reduction="sum", **{case.registration.detach: True})
    _, gradient = value_and_gradient(loss, logits, targets)
    assert np.allclose(
        gradient, written_gradient(case, logits.numpy(), targets.numpy()), rtol=1e-6, atol=1e-9
    )


@detaching
def test_detaching_the_weight_changes_gradients_but_not_values(case):
    logits, targets = batch(case)
    held, free = (
        value_and_gradient(case.make(**{case.registration.detach: detach}), logits, targets)
        for detach in (True, False)
    )
    assert held[0] == free[0]
    assert not torch.allclose(held[1], free[1])
