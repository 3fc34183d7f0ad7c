"""Greedy ensemble selection on the challenge's metric (Caruana et al., ICML 2004)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxrlt.metrics.ranking import CLASS_METRICS, macro

ROUNDS = 20


def greedy_weights(
    members: Sequence[NDArray[np.float32]], targets: NDArray[np.float64], metric: str
) -> NDArray[np.float64]:
    """Weights (m,) that sum to 1, for members' scores (c, n) and targets (n, c) of 1, 0 or NaN.

    Starting with the best member, the member that helps the average most is added, with replacement, for
    ROUNDS rounds; the best average met on the way is kept, the smaller one where two are equal.
    """
    known = ~np.isnan(targets.T)
    positive = targets.T == 1

    def score(total: NDArray[np.float32]) -> float:
        columns = zip(total, positive, known, strict=True)
        return float(macro([CLASS_METRICS[metric](row[k], p[k]) for row, p, k in columns]))

    alone = [score(member) for member in members]
    counts = np.zeros(len(members), dtype=np.int64)
    counts[int(np.argmax(alone))] = 1
    total, best, best_counts = members[int(np.argmax(alone))], max(alone), counts.copy()
    for _ in range(ROUNDS if len(members) > 1 else 0):
        reached = [score(total + member) for member in members]
        added = int(np.argmax(reached))
        counts[added] += 1
        total = total + members[added]
        if reached[added] > best:
            best, best_counts = reached[added], counts.copy()
    return best_counts / best_counts.sum()
