"""Losses against their formulas in 60 digits."""

import mpmath as mp
import numpy as np
import pytest
import torch

from cxrlt.losses import (
    AsymmetricLoss,
    AsymmetricPolynomialLoss,
    BalancedSoftmax,
    BinaryCrossEntropy,
    ClassAwareLoss,
    CrossEntropy,
    DistributionBalancedLoss,
    FocalLoss,
    HillLoss,
    LDAMLoss,
    LMFLoss,
    LogitAdjusted,
    RobustAsymmetricLoss,
    RobustAsymmetricSingleLabelLoss,
    SoftmaxFocalLoss,
)

mp.mp.dps = 60
LOGITS = [-100, -30, -5, -1.3, 0, 0.7, 3, 12, 40, 100]
N, T = 20, 1000  # positives, rows
COUNTS = {"class_counts": [N], "n_samples": T}


def sigma(z):
    return 1 / (1 + mp.exp(-z))


def tau(p, m="0.05"):
    return max(p - mp.mpf(m), mp.mpf(0))


def asl_negative(p, gamma=4):
    return -(tau(p) ** gamma) * mp.log(1 - tau(p))


def apl_positive(z):
    return -mp.log(sigma(z)) - sigma(-z) + mp.mpf("1.25") * sigma(-z) ** 2


def released_negative(p, epsilon=0):
    hill = (1.5 - p) * p**2 * (mp.mpf("0.5") + tau(p))
    return hill * (asl_negative(p) - epsilon * tau(p) ** 4 * (1 - tau(p)))


def class_aware_negative(p, base):
    return -(1 - base**p) * mp.log(1 - tau(p, "0.2"))


def db_positive(z):
    x = z - mp.mpf("0.025") * mp.log(mp.mpf(T) / N - 1)
    return -2 * sigma(-x) ** 2 * mp.log(sigma(x))


def db_negative(z):
    x = z - mp.mpf("0.025") * mp.log(mp.mpf(T) / N - 1)
    return -2 * sigma(2 * x) ** 2 * mp.log(sigma(-2 * x)) / 2


A = mp.mpf(N) / T
FORMULAS = [
    (BinaryCrossEntropy(), lambda z: -mp.log(sigma(z)), lambda z: -mp.log(sigma(-z))),
    (
        BinaryCrossEntropy(pos_weight=3, class_weights="prevalence", **COUNTS),
        lambda z: -3 * mp.exp(1 - A) * mp.log(sigma(z)),
        lambda z: -mp.exp(A) * mp.log(sigma(-z)),
    ),
    (
        FocalLoss(alpha=0.25),
        lambda z: -mp.mpf("0.25") * sigma(-z) ** 2 * mp.log(sigma(z)),
        lambda z: -mp.mpf("0.75") * sigma(z) ** 2 * mp.log(sigma(-z)),
    ),
    (AsymmetricLoss(), lambda z: -sigma(-z) * mp.log(sigma(z)), lambda z: asl_negative(sigma(z))),
    (
        AsymmetricLoss(2, 0, 0),
        lambda z: -mp.log(sigma(z)),
        lambda z: -(sigma(z) ** 2) * mp.log(sigma(-z)),
    ),
    (AsymmetricPolynomialLoss(detach_focusing=False), apl_positive, lambda z: asl_negative(sigma(z))),
    (
        AsymmetricPolynomialLoss(gamma_pos=1, epsilon_neg=-0.5, detach_focusing=False),
        lambda z: sigma(-z) * apl_positive(z),
        lambda z: asl_negative(sigma(z)) + tau(sigma(z)) ** 5 / 2,
    ),
    (
        HillLoss(),
        lambda z: -(sigma(1 - z) ** 2) * mp.log(sigma(z - 1)),
        lambda z: (1.5 - sigma(z)) * sigma(z) ** 2,
    ),
    (RobustAsymmetricLoss(), apl_positive, lambda z: (1.5 - sigma(z)) * asl_negative(sigma(z))),
    (
        RobustAsymmetricLoss(epsilon_neg=0.5),
        apl_positive,
        lambda z: (1.5 - sigma(z)) * (asl_negative(sigma(z)) - tau(sigma(z)) ** 5 / 2),
    ),
    (RobustAsymmetricLoss("released"), apl_positive, lambda z: released_negative(sigma(z))),
    (
        RobustAsymmetricLoss("released", epsilon_neg=0.5),
        apl_positive,
        lambda z: released_negative(sigma(z), mp.mpf("0.5")),
    ),
    (
        ClassAwareLoss(**COUNTS),
        lambda z: -(1 - A ** sigma(-z)) * mp.log(sigma(z)),
        lambda z: class_aware_negative(sigma(z), 1 - A),
    ),
    (
        ClassAwareLoss(decoupled=False, **COUNTS),
        lambda z: -(1 - A ** sigma(-z)) * mp.log(sigma(z)),
        lambda z: class_aware_negative(sigma(z), A),
    ),
    (DistributionBalancedLoss(**COUNTS), db_positive, db_negative),
]


@pytest.mark.parametrize(("loss", "positive", "negative"), FORMULAS, ids=lambda f: type(f).__name__)
def test_sigmoid_losses_equal_their_formulas_for_all_logits(loss, positive, negative):
    for ours, formula in ((loss.positive, positive), (loss.negative, negative)):
        z = torch.tensor(LOGITS, dtype=torch.float64)[:, None].requires_grad_()
        value = ours(z)
        (slope,) = torch.autograd.grad(value.sum(), z)
        exact = [float(formula(mp.mpf(x))) for x in LOGITS]
        exact_slope = [float(mp.diff(formula, mp.mpf(x))) for x in LOGITS]
        assert value.flatten().tolist() == pytest.approx(exact, rel=1e-6, abs=1e-16)
        assert slope.flatten().tolist() == pytest.approx(exact_slope, rel=1e-6, abs=1e-12)
        short = ours(torch.tensor(LOGITS)[:, None])
        assert short.flatten().tolist() == pytest.approx(exact, rel=1e-4, abs=1e-7)


CLASS_COUNTS = [400, 60, 9, 0]
ROWS = [(0, 1, -2, 0.5), (100, -100, 0, 0), (30, 29, -5, -100), (-3, -3, -3, -3), (2, -1, 4, 3)]
N_CLAMPED = [mp.mpf(max(n, 1)) for n in CLASS_COUNTS]
MARGINS = [mp.mpf("0.5") * (min(N_CLAMPED) / n) ** mp.mpf("0.25") for n in N_CLAMPED]
RARITY = [mp.mpf("0.0001") / (1 - mp.mpf("0.9999") ** n) for n in N_CLAMPED]
EFFECTIVE = [4 * r / sum(RARITY) for r in RARITY]
COMPLEMENT = [4 * (1 - n / sum(N_CLAMPED)) / 3 for n in N_CLAMPED]


def probabilities(z):
    powers = [mp.exp(mp.mpf(x)) for x in z]
    return [power / sum(powers) for power in powers]


def log_p(z, t):
    return mp.log(probabilities(z)[t])


def smoothed(z, t):
    everywhere = sum(w * log_p(z, j) for j, w in enumerate(EFFECTIVE)) / 4
    return -mp.mpf("0.9") * EFFECTIVE[t] * log_p(z, t) - mp.mpf("0.1") * everywhere


def focal(z, t, gamma="2"):
    return -((1 - probabilities(z)[t]) ** mp.mpf(gamma)) * log_p(z, t)


def ldam(z, t):
    return -log_p([30 * (mp.mpf(x) - (j == t) * MARGINS[t]) for j, x in enumerate(z)], t)


def lmf(z, t):
    return MARGINS[t] * (mp.mpf("1.5") * ldam(z, t) + focal(z, t, "1.5"))


def ral(z, t, negative=lambda p: (1.5 - p) * asl_negative(p)):
    p = probabilities(z)
    right = -mp.log(p[t]) - (1 - p[t]) + mp.mpf("1.25") * (1 - p[t]) ** 2
    return right + sum(negative(q) for j, q in enumerate(p) if j != t)


def adjusted(tau):
    return lambda z, t: -log_p([x + tau * mp.log(n) for x, n in zip(z, N_CLAMPED, strict=True)], t)


EXCLUSIVE = {"class_counts": CLASS_COUNTS}
SOFTMAX_FORMULAS = [
    (CrossEntropy(), lambda z, t: -log_p(z, t)),
    (CrossEntropy("effective", 0.1, **EXCLUSIVE), smoothed),
    (CrossEntropy("complement", **EXCLUSIVE), lambda z, t: -COMPLEMENT[t] * log_p(z, t)),
    (SoftmaxFocalLoss(), focal),
    (SoftmaxFocalLoss(2, "effective", **EXCLUSIVE), lambda z, t: EFFECTIVE[t] * focal(z, t)),
    (RobustAsymmetricSingleLabelLoss(), ral),
    (RobustAsymmetricSingleLabelLoss("released"), lambda z, t: ral(z, t, released_negative)),
    (LDAMLoss(**EXCLUSIVE), ldam),
    (LDAMLoss(class_weights="effective", **EXCLUSIVE), lambda z, t: EFFECTIVE[t] * ldam(z, t)),
    (LMFLoss(**EXCLUSIVE), lmf),
    (BalancedSoftmax(**EXCLUSIVE), adjusted(1)),
    (LogitAdjusted(2, **EXCLUSIVE), adjusted(2)),
]


@pytest.mark.parametrize(("loss", "formula"), SOFTMAX_FORMULAS, ids=lambda f: type(f).__name__)
def test_softmax_losses_equal_their_formulas_for_all_logits(loss, formula):
    logits = torch.tensor(ROWS, dtype=torch.float64)
    exact = np.array([[float(formula(row, t)) for t in range(4)] for row in ROWS])
    assert np.allclose(loss.per_class(logits), exact, rtol=1e-6, atol=1e-15)
    assert np.allclose(loss.per_class(logits.float()), exact, rtol=1e-4, atol=1e-6)
