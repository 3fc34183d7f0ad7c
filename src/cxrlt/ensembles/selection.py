"""Greedy ensemble selection on the challenge's metric (Caruana et al., ICML 2004)."""

from collections.abc import Callable, Sequence

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.special import softmax

from cxrlt.challenges.base import Task
from cxrlt.metrics import METRICS, has_both_values, macro
from cxrlt.metrics.classification import count_classes, metric_from_counts
from cxrlt.metrics.ranking import class_rows

N_ROUNDS = 20
"""Members added by greedy selection; with replacement, so weights are multiples of about 1/20."""
SHRINKAGE_POSITIVES = 100
"""Positives at which a class's own weights count as much as the weights over all classes. Measured: with n
positives, a paired difference in AP between good members has a standard error of about 0.2 / sqrt(n), and
members differ by about 0.02, so 100 positives are needed to tell such a difference from chance."""
MIN_ROWS_FOR_THREADS = 50_000
"""With fewer rows, sorting is so fast that threads only wait for each other."""
Scores = NDArray[np.float32]
SumMetric = Callable[[Scores, Scores, int], float]
"""(sum of scores, scores of one more member, number of members with it) -> the metric of the new sum."""


def greedy_weights(
    members: Sequence[Scores],
    targets: NDArray[np.float64],
    metric: str,
    task: Task = "multi_label",
    rounds: int = N_ROUNDS,
) -> NDArray[np.float64]:
    """Return weights (n_members,) that sum to 1 and maximise the metric of the weighted mean.

    `members` are scores of shape (n_classes, n_rows), `targets` (n_rows, n_classes) are 1, 0 or NaN. The
    search starts with the best member and adds, with replacement, the member that helps most, for `rounds`
    rounds. It returns the best weights on the way; on equal scores the ones of the earlier round.
    """
    if METRICS[metric].kind == "decisions":
        metric_with = _decision_metric(targets, metric)
    else:
        metric_with = _ranking_metric(targets, metric, task)
    with _threads(len(targets)) as parallel:
        return _greedy_search(
            members,
            lambda total, n: parallel(delayed(metric_with)(total, member, n) for member in members),
            rounds,
        )


def _greedy_search(
    members: Sequence[Scores], score_all: Callable[[Scores, int], list[float]], rounds: int
) -> NDArray[np.float64]:
    """`score_all(total, n)` returns the metric of `total` plus each member; the sum then has n members."""
    total, counts = np.zeros_like(members[0]), np.zeros(len(members), dtype=np.int64)
    weights, scores = [], []
    for n in range(1, 2 + (rounds if len(members) > 1 else 0)):
        values = score_all(total, n)
        added = int(np.argmax(values))
        counts[added] += 1
        total += members[added]
        weights.append(counts / n)
        scores.append(values[added])
    return weights[int(np.argmax(scores))]


def per_class_weights(
    members: Sequence[Scores],
    targets: NDArray[np.float64],
    metric: str,
    overall: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return weights (n_classes, n_members): the greedy weights of each class, shrunk towards `overall`.

    With n positives, a class has (n * own + SHRINKAGE_POSITIVES * overall) / (n + SHRINKAGE_POSITIVES).
    `overall` (n_members,) are weights for all classes; the other arguments are those of `greedy_weights`.
    """
    weights = np.tile(np.asarray(overall, dtype=np.float64), (targets.shape[1], 1))
    n_positive = (targets == 1).sum(axis=0)
    scored = np.flatnonzero(has_both_values(targets))
    with _threads(len(targets)) as parallel:
        found = parallel(
            delayed(_one_class_weights)([member[c : c + 1] for member in members], targets[:, [c]], metric)
            for c in scored
        )
    for c, own in zip(scored, found, strict=True):
        weights[c] = (n_positive[c] * own + SHRINKAGE_POSITIVES * overall) / (
            n_positive[c] + SHRINKAGE_POSITIVES
        )
    return weights


def _one_class_weights(
    members: Sequence[Scores], targets: NDArray[np.float64], metric: str
) -> NDArray[np.float64]:
    metric_with = _ranking_metric(targets, metric, "multi_label")
    return _greedy_search(
        members, lambda total, n: [metric_with(total, member, n) for member in members], N_ROUNDS
    )


def _threads(n_rows: int) -> Parallel:
    return Parallel(n_jobs=-1 if n_rows >= MIN_ROWS_FOR_THREADS else 1, prefer="threads")


def _ranking_metric(targets: NDArray[np.float64], metric: str, task: Task) -> SumMetric:
    """Rank by the sum of scores, or by the softmax of the mean in single-label tasks."""
    metric_of, rows = METRICS[metric].definition.value, class_rows(targets)

    def metric_with(total: Scores, member: Scores, n: int) -> float:
        if task == "single_label":
            scores = softmax((total + member).astype(np.float64) / n, axis=0)
        else:
            scores = map(np.add, total, member)  # one class at a time stays in the CPU cache
        columns = zip(rows, scores, strict=True)
        return float(macro([metric_of(*of_class.sorted_scores(score)) for of_class, score in columns]))

    return metric_with


def _decision_metric(targets: NDArray[np.float64], metric: str) -> SumMetric:
    """Predict the class with the highest sum of scores."""
    known = ~np.isnan(targets).any(axis=1)
    true = targets[known].argmax(axis=1)

    def metric_with(total: Scores, member: Scores, n: int) -> float:
        predicted = (total + member).argmax(axis=0)[known]
        return float(metric_from_counts(metric, count_classes(true, predicted, len(total))))

    return metric_with
