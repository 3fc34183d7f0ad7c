import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from cxrlt.challenges import get_challenge
from cxrlt.metrics import average_precision, macro
from cxrlt.predictions.standardise import pool_oof_scores, predicted_ids
from tiny import oof_score

CLASSES = [f"c{number}" for number in range(10)]
PREVALENCE = np.geomspace(0.3, 0.004, 10)
BY_MAP = get_challenge("demo")


def draw(rng: np.random.Generator, n_rows: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels of long-tailed prevalence, and scores of one model for them."""
    labels = (rng.random((n_rows, 10)) < PREVALENCE).astype(np.float64)
    scores = 1.5 * labels + rng.normal(size=labels.shape)
    return pd.DataFrame(labels, columns=CLASSES), pd.DataFrame(scores, columns=CLASSES)


def macro_map(labels: pd.DataFrame, scores: pd.DataFrame) -> float:
    return float(macro(average_precision(labels, scores)))


def test_the_defined_score_is_nearer_the_truth_than_raw_pooling_and_than_the_mean_over_folds() -> None:
    rng = np.random.default_rng(0)
    truth = macro_map(*draw(rng, 200_000))
    errors = []
    for _ in range(20):
        labels, scores = draw(rng, 3000)
        fold = pd.Series(np.arange(3000) % 5)
        stretch, shift = rng.uniform(0.7, 1.4, (5, 10))[fold], rng.normal(0, 0.7, (5, 10))[fold]
        drifted = scores * stretch + shift
        mean = np.mean([macro_map(labels[fold == k], drifted[fold == k]) for k in range(5)])
        found = [oof_score(BY_MAP, drifted, labels, fold), macro_map(labels, drifted), mean]
        errors.append(np.array(found) - truth)
    defined, raw, mean = np.mean(errors, axis=0)
    assert abs(defined) < 0.02
    assert raw < -3 * abs(defined)
    assert mean > 3 * abs(defined)


def test_rows_without_a_prediction_are_not_scored() -> None:
    labels, scores = draw(np.random.default_rng(0), 200)
    scores.iloc[4] = np.nan
    fold = pd.Series(np.arange(200) % 2)
    assert len(predicted_ids(scores)) == 199
    assert pool_oof_scores(scores, fold, "multi_label").index.equals(predicted_ids(scores))
    rest = labels.index != 4
    of_the_rest = oof_score(BY_MAP, scores[rest], labels[rest], fold[rest])
    assert oof_score(BY_MAP, scores, labels, fold) == of_the_rest


def test_a_class_with_positives_and_blanks_only_is_not_in_the_score() -> None:
    labels, scores = draw(np.random.default_rng(0), 2000)
    fold = pd.Series(np.arange(2000) % 2)
    rest = CLASSES[1:]
    of_the_rest = oof_score(BY_MAP, scores[rest], labels[rest], fold)
    labels["c0"] = labels["c0"].where(labels["c0"] == 1)
    assert oof_score(BY_MAP, scores, labels, fold) == pytest.approx(of_the_rest)


def test_with_one_class_per_row_softmax_probabilities_are_pooled_as_they_are() -> None:
    _, scores = draw(np.random.default_rng(0), 60)
    scores.iloc[4] = np.nan
    fold = pd.Series(np.arange(60) % 2)
    pooled = pool_oof_scores(10 * scores, fold, "single_label")
    assert pooled.index.equals(predicted_ids(scores))
    np.testing.assert_allclose(pooled, softmax(10 * scores.drop(index=4), axis=1), rtol=1e-9)
