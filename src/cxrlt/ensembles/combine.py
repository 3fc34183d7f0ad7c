"""Members' scores of a split brought together, and what a combination makes of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrlt.ensembles.context import Context, context_of
from cxrlt.ensembles.weights import Combination
from cxrlt.predictions.standardise import Constants
from cxrlt.predictions.study_mean import study_mean


@dataclass(frozen=True)
class Evidence:
    """What is known of the rows `ids` without labels: `scores` (m, c, n; NaN = not predicted), context."""

    ids: pd.Index
    members: tuple[str, ...]
    classes: tuple[str, ...]
    scores: NDArray[np.float64]
    context: Context | None = None

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """The rows (n,) that every member predicts."""
        return ~np.isnan(self.scores).any(axis=(0, 1))

    def rows(self, chosen: NDArray[np.bool_]) -> "Evidence":
        context = None if self.context is None else self.context.rows(chosen)
        return Evidence(self.ids[chosen], self.members, self.classes, self.scores[:, :, chosen], context)


def evidence_of(
    frames: Mapping[str, pd.DataFrame], table: pd.DataFrame, frontal: float | None, *, context: bool
) -> Evidence:
    """Members' scores of the same rows, averaged over studies with that weight of frontal images.

    None: not averaged. The context, if it is asked for, is that of the members' plain mean.
    """
    ids = next(iter(frames.values())).index
    parts = [study_mean(frame, table, frontal) for frame in frames.values()]
    scores = np.stack([part.to_numpy(np.float64).T for part in parts])
    around = context_of(scores.mean(axis=0), table.loc[ids]) if context else None
    return Evidence(ids, tuple(frames), tuple(parts[0].columns), scores, around)


def combined(evidence: Evidence, combination: Combination) -> pd.DataFrame:
    """One score per row and class (index ids); NaN where a member with a weight predicts nothing."""
    weights = combination.weights.loc[list(evidence.classes), list(evidence.members)].to_numpy()
    total = np.zeros(evidence.scores.shape[1:])
    for member, scores in enumerate(evidence.scores):
        share = weights[:, member, None]
        total += np.where(share == 0, 0.0, share * scores)
    if combination.bias is not None:
        total += combination.bias.loc[list(evidence.classes)].to_numpy()[:, None]
    if combination.context is not None:
        coefficients = combination.context.loc[list(evidence.classes)].to_numpy()
        for c, coefficient in enumerate(coefficients):
            total[c] += evidence.context.for_class(c) @ coefficient
    return pd.DataFrame(total.T, index=evidence.ids, columns=list(evidence.classes))


def combined_constants(constants: Mapping[str, Constants], combination: Combination) -> Constants:
    """What maps combined scores to logits: the mean of the members', or nothing where they are logits."""
    classes = combination.weights.index
    if combination.bias is not None:
        return Constants(pd.Series(0.0, classes), pd.Series(1.0, classes))
    parts = [(constants[name], share) for name, share in combination.weights.items() if name in constants]
    return Constants(
        sum(share * part.median[classes] for part, share in parts),
        sum(share * part.iqr[classes] for part, share in parts),
    )
