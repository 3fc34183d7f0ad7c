import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score

from cxrlt.metrics.odir import odir_score


def test_the_score_of_odir_is_that_of_its_program_over_the_labels_of_all_classes():
    rng = np.random.default_rng(0)
    targets = (rng.random((40, 8)) < 0.2).astype(float)
    probabilities = np.clip(0.3 * targets + 0.7 * rng.random((40, 8)), 0, 1)
    probabilities[0] = 0.5  # not above the threshold
    true, decided = targets.ravel(), probabilities.ravel() > 0.5
    found = odir_score(targets, probabilities)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(true, decided))
    assert found["F1"] == pytest.approx(f1_score(true, decided, average="micro"))
    assert found["AUC"] == pytest.approx(roc_auc_score(true, probabilities.ravel()))
    assert found["score"] == pytest.approx((found["kappa"] + found["F1"] + found["AUC"]) / 3)


def test_unknown_labels_are_ignored():
    targets, probabilities = np.array([[1, np.nan], [0, 1]]), np.array([[0.9, 0.1], [0.2, 0.7]])
    assert odir_score(targets, probabilities)["score"] == 1
