"""Greedy ensemble selection on the challenge's metric (Caruana et al., ICML 2004)."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from cxrlt.challenges.base import Task
from cxrlt.metrics import CONFUSION_METRICS, macro
from cxrlt.metrics.classification import confusion_counts
from cxrlt.metrics.ranking import CLASS_METRICS, class_rows

ROUNDS = 20
OWN_EVIDENCE = 100
"""Positives at which a class's own weights count as much as all classes' together. With n of them a paired
difference in AP of good members has a standard error of about .2 / sqrt(n), and members differ by about .02:
it takes 100 to tell one from chance."""
Judge = Callable[[NDArray[np.float32], int], float]


def greedy_weights(
    members: Sequence[NDArray[np.float32]],
    targets: NDArray[np.float64],
    metric: str,
    task: Task = "multi_label",
) -> NDArray[np.float64]:
    """Weights (m,) that sum to 1, for members' scores (c, n) and targets (n, c) of 1, 0 or NaN.

    Starting with the best member, the member that helps the average most is added, with replacement, for
    ROUNDS rounds; the best average met on the way is kept, the smaller one where two are equal.
    """
    judge = _confusion_judge(targets, metric) if metric in CONFUSION_METRICS else None
    judge = judge or _ranking_judge(targets, metric, task)
    alone = [judge(member, 1) for member in members]
    counts = np.zeros(len(members), dtype=np.int64)
    counts[int(np.argmax(alone))] = 1
    total, best, best_counts = members[int(np.argmax(alone))], max(alone), counts.copy()
    for _ in range(ROUNDS if len(members) > 1 else 0):
        reached = [judge(total + member, counts.sum() + 1) for member in members]
        added = int(np.argmax(reached))
        counts[added] += 1
        total = total + members[added]
        if reached[added] > best:
            best, best_counts = reached[added], counts.copy()
    return best_counts / best_counts.sum()


def class_weights(
    members: Sequence[NDArray[np.float32]],
    targets: NDArray[np.float64],
    metric: str,
    overall: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Weights (c, m) of every class: its own greedy ones, shrunk towards `overall` (m,) as positives are few.

    (n own + OWN_EVIDENCE overall) / (n + OWN_EVIDENCE), with n positives of the class; arguments are those of
    `greedy_weights`.
    """
    weights = np.tile(np.asarray(overall, dtype=np.float64), (targets.shape[1], 1))
    for c in range(targets.shape[1]):
        n_positive = int((targets[:, c] == 1).sum())
        if n_positive and (targets[:, c] == 0).any():
            own = greedy_weights([member[c : c + 1] for member in members], targets[:, [c]], metric)
            weights[c] = (n_positive * own + OWN_EVIDENCE * overall) / (n_positive + OWN_EVIDENCE)
    return weights


def _ranking_judge(targets: NDArray[np.float64], metric: str, task: Task) -> Judge:
    """The metric of a sum of `n` members' scores (c, n), whose softmax ranks where a row has one class."""
    metric_of, rows = CLASS_METRICS[metric], class_rows(targets)

    def judge(total: NDArray[np.float32], n: int) -> float:
        scores = softmax(total / n, axis=0) if task == "single_label" else total
        columns = zip(rows, scores, strict=True)
        return float(macro([metric_of(*of_class.in_order(score)) for of_class, score in columns]))

    return judge


def _confusion_judge(targets: NDArray[np.float64], metric: str) -> Judge:
    known = ~np.isnan(targets).any(axis=1)
    true = targets[known].argmax(axis=1)

    def judge(total: NDArray[np.float32], n: int) -> float:
        counts = confusion_counts(true, total.argmax(axis=0)[known], len(total))
        return float(CONFUSION_METRICS[metric](counts))

    return judge
