"""Greedy ensemble selection on the challenge's metric (Caruana et al., ICML 2004)."""

from collections.abc import Callable, Sequence

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.special import softmax

from cxrlt.challenges.base import Task
from cxrlt.metrics import METRICS, has_both_values, macro
from cxrlt.metrics.classification import count_classes, metric_of_counts
from cxrlt.metrics.ranking import class_rows

ROUNDS = 20
OWN_EVIDENCE = 100
"""Positives at which a class's own weights count as much as all classes' together. With n of them a paired
difference in AP of good members has a standard error of about .2 / sqrt(n), and members differ by about .02:
it takes 100 to tell one from chance."""
THREADS_FROM = 50_000
"""Rows whose sorting takes long enough for threads to pay; with fewer they wait for each other."""
Scores = NDArray[np.float32]
Judge = Callable[[Scores, Scores, int], float]
"""(sum of members' scores, those of one member more, how many these are together) -> the metric."""


def greedy_weights(
    members: Sequence[Scores],
    targets: NDArray[np.float64],
    metric: str,
    task: Task = "multi_label",
    rounds: int = ROUNDS,
) -> NDArray[np.float64]:
    """Weights (m,) that sum to 1, for members' scores (c, n) and targets (n, c) of 1, 0 or NaN.

    Starting with the best member, the member that helps the average most is added, with replacement, for
    `rounds` rounds; the best average met on the way is kept, the smaller one where two are equal.
    """
    if METRICS[metric].kind == "decisions":
        judge = _confusion_judge(targets, metric)
    else:
        judge = _ranking_judge(targets, metric, task)
    with _threads(len(targets)) as parallel:
        return _climb(
            members, lambda total, n: parallel(delayed(judge)(total, member, n) for member in members), rounds
        )


def _climb(
    members: Sequence[Scores], judged: Callable[[Scores, int], list[float]], rounds: int
) -> NDArray[np.float64]:
    """`judged` tells the metric of a sum with each member added to it, `n` members in all."""
    total, counts = np.zeros_like(members[0]), np.zeros(len(members), dtype=np.int64)
    tried, reached = [], []
    for n in range(1, 2 + (rounds if len(members) > 1 else 0)):
        values = judged(total, n)
        added = int(np.argmax(values))
        counts[added] += 1
        total += members[added]
        tried.append(counts / n)
        reached.append(values[added])
    return tried[int(np.argmax(reached))]


def class_weights(
    members: Sequence[Scores],
    targets: NDArray[np.float64],
    metric: str,
    overall: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Weights (c, m) of every class: its own greedy ones, shrunk towards `overall` (m,) as positives are few.

    (n own + OWN_EVIDENCE overall) / (n + OWN_EVIDENCE), with n positives of the class; arguments are those of
    `greedy_weights`.
    """
    weights = np.tile(np.asarray(overall, dtype=np.float64), (targets.shape[1], 1))
    n_positive = (targets == 1).sum(axis=0)
    chosen = np.flatnonzero(has_both_values(targets))
    with _threads(len(targets)) as parallel:
        found = parallel(
            delayed(_own_weights)([member[c : c + 1] for member in members], targets[:, [c]], metric)
            for c in chosen
        )
    for c, own in zip(chosen, found, strict=True):
        weights[c] = (n_positive[c] * own + OWN_EVIDENCE * overall) / (n_positive[c] + OWN_EVIDENCE)
    return weights


def _own_weights(members: Sequence[Scores], targets: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    judge = _ranking_judge(targets, metric, "multi_label")
    return _climb(members, lambda total, n: [judge(total, member, n) for member in members], ROUNDS)


def _threads(n_rows: int) -> Parallel:
    return Parallel(n_jobs=-1 if n_rows >= THREADS_FROM else 1, prefer="threads")


def _ranking_judge(targets: NDArray[np.float64], metric: str, task: Task) -> Judge:
    """Ranks by the sum, or by the softmax of the mean where a row has one class."""
    metric_of, rows = METRICS[metric].definition.value, class_rows(targets)

    def judge(total: Scores, member: Scores, n: int) -> float:
        if task == "single_label":
            scores = softmax((total + member).astype(np.float64) / n, axis=0)
        else:
            scores = map(np.add, total, member)  # a class at a time: all of them would leave the cache
        columns = zip(rows, scores, strict=True)
        return float(macro([metric_of(*of_class.in_order(score)) for of_class, score in columns]))

    return judge


def _confusion_judge(targets: NDArray[np.float64], metric: str) -> Judge:
    known = ~np.isnan(targets).any(axis=1)
    true = targets[known].argmax(axis=1)

    def judge(total: Scores, member: Scores, n: int) -> float:
        predicted = (total + member).argmax(axis=0)[known]
        return float(metric_of_counts(metric, count_classes(true, predicted, len(total))))

    return judge
