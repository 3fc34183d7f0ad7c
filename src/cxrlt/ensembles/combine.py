"""Collect the members' scores of a split, and combine them with the weights of an ensemble."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrlt.ensembles.context import Context, compute_context
from cxrlt.ensembles.weights import Combination
from cxrlt.predictions.standardise import Constants
from cxrlt.predictions.study_mean import study_mean


@dataclass(frozen=True)
class MemberScores:
    """The inputs of an ensemble for the rows `ids`: `scores` (n_members, n_classes, n_rows) and context.

    NaN means not predicted.
    """

    ids: pd.Index
    members: tuple[str, ...]
    classes: tuple[str, ...]
    scores: NDArray[np.float64]
    context: Context | None = None

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Mask (n_rows,) of the rows that every member predicts."""
        return ~np.any(np.isnan(self.scores), axis=(0, 1))

    def select(self, mask: NDArray[np.bool_]) -> "MemberScores":
        """Return the rows where `mask` (n_rows,) is true."""
        context = None if self.context is None else self.context.select(mask)
        return MemberScores(self.ids[mask], self.members, self.classes, self.scores[:, :, mask], context)


def collect_member_scores(
    frames: Mapping[str, pd.DataFrame], table: pd.DataFrame, frontal_weight: float | None, *, context: bool
) -> MemberScores:
    """Collect the scores of all members, averaged over studies with this weight of frontal images.

    `frames` are each member's scores (index image_id, one column per class), with the same rows. A
    `frontal_weight` of None averages nothing. `context` adds context features, computed from the members'
    mean.
    """
    ids = next(iter(frames.values())).index
    parts = [study_mean(frame, table, frontal_weight) for frame in frames.values()]
    scores = np.stack([part.to_numpy(np.float64).T for part in parts])
    around = compute_context(scores.mean(axis=0), table.loc[ids]) if context else None
    return MemberScores(ids, tuple(frames), tuple(parts[0].columns), scores, around)


def combine_scores(member_scores: MemberScores, combination: Combination) -> pd.DataFrame:
    """Return the combined scores (index ids, one column per class).

    A row is NaN if a member whose weight is not 0 does not predict it.
    """
    weights = combination.weights.loc[list(member_scores.classes), list(member_scores.members)].to_numpy()
    total = np.zeros(member_scores.scores.shape[1:])
    for member, scores in enumerate(member_scores.scores):
        share = weights[:, member, None]
        total += np.where(share == 0, 0.0, share * scores)
    if combination.bias is not None:
        total += combination.bias.loc[list(member_scores.classes)].to_numpy()[:, None]
    if combination.context is not None:
        assert member_scores.context is not None
        coefficients = combination.context.loc[list(member_scores.classes)].to_numpy()
        for c, coefficient in enumerate(coefficients):
            total[c] += member_scores.context.for_class(c) @ coefficient
    return pd.DataFrame(total.T, index=member_scores.ids, columns=list(member_scores.classes))


def combine_constants(constants: Mapping[str, Constants], combination: Combination) -> Constants:
    """Return the constants that map combined scores to logits: the weighted mean of the members' constants.

    They are 0 and 1 if the combination has a bias, because its sums already are logits.
    """
    classes = combination.weights.index
    if combination.bias is not None:
        return Constants(pd.Series(0.0, classes), pd.Series(1.0, classes))
    parts = [
        (constants[name], combination.weights[name]) for name in combination.members if name in constants
    ]
    zero = pd.Series(0.0, classes)
    return Constants(
        sum((weights * part.median[classes] for part, weights in parts), start=zero),
        sum((weights * part.iqr[classes] for part, weights in parts), start=zero),
    )
