"""What predictions are worth: every figure the project reports about scores and labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.metrics import Bootstrap, Interval, auroc, average_precision, basic_interval, bootstrap, macro

N_DRAWS = 1000


@dataclass(frozen=True)
class ClassScore:
    """One class: how often it occurs and how well it is ranked; `lift` is AP over prevalence."""

    name: str
    group: str
    n_known: int
    n_positive: int
    ap: Interval
    auroc: Interval

    @property
    def prevalence(self) -> float:
        return self.n_positive / self.n_known if self.n_known else float("nan")

    @property
    def lift(self) -> float:
        return self.ap.value / self.prevalence if self.n_positive else float("nan")


@dataclass(frozen=True)
class MacroScore:
    """Macro means over `n_classes` classes."""

    n_classes: int
    ap: Interval
    auroc: Interval

    def of(self, metric: str) -> Interval:
        """The mean that a challenge's metric names."""
        return {"mAP": self.ap, "mAUROC": self.auroc}[metric]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model, ensemble or file on one split.

    `overall` and `groups` are means over the classes that have both values; `undefined` names the others.
    Out-of-fold scores also have `per_fold` (macro mAP and mAUROC of each fold alone), `mean_over_folds` (the
    mean of its mAP) and, for a model, `raw_pooled` (mAP of the logits pooled as they are). `draws` serve
    paired differences and are not part of the JSON.
    """

    challenge: str
    name: str
    split: str
    n_rows: int
    n_patients: int | None
    overall: MacroScore
    groups: dict[str, MacroScore]
    classes: tuple[ClassScore, ...]
    undefined: tuple[str, ...]
    draws: Bootstrap = field(repr=False)
    per_fold: tuple[tuple[float, float], ...] = ()
    mean_over_folds: float | None = None
    raw_pooled: float | None = None
    study_mean: bool | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain numbers, None where undefined."""
        values = {key: value for key, value in vars(self).items() if key != "draws"}
        values["classes"] = [
            vars(score) | {"prevalence": score.prevalence, "lift": score.lift} for score in self.classes
        ]
        return _plain(values)


def score_rows(
    challenge: Challenge,
    scores: pd.DataFrame,
    truth: pd.DataFrame,
    patients: pd.Series | None,
    *,
    name: str,
    split: str,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    **extra: object,
) -> Evaluation:
    """Score every row of `scores` (index image_id, a column per class) against `truth` (1, 0, NaN), by id.

    `patients` (by id; None or NA: every row is its own) are drawn whole by the bootstrap. `extra` are further
    fields of the evaluation. Raises UserError if no class has both values.
    """
    classes = list(challenge.classes)
    labels = truth.loc[scores.index, classes].to_numpy(np.float64)
    clusters = None if patients is None else patients.loc[scores.index]
    by_row = clusters is None or clusters.isna().any()
    clusters = np.arange(len(scores)) if by_row else clusters.to_numpy(str)
    both = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    if not both.any():
        raise UserError(
            f"{challenge.name} {split}: no class has both positive and negative rows to score on."
        )
    draws = bootstrap(np.where(both, labels, np.nan), scores[classes].to_numpy(), clusters, n_draws, seed)
    return Evaluation(
        challenge=challenge.name,
        name=name,
        split=split,
        n_rows=len(scores),
        n_patients=None if by_row else len(np.unique(clusters)),
        overall=_macro_score(draws, both),
        groups={
            group: _macro_score(draws, both & np.isin(classes, names))
            for group, names in challenge.groups.items()
        },
        classes=_class_scores(challenge, labels, draws),
        undefined=tuple(np.array(classes)[~both].tolist()),
        draws=draws,
        **extra,
    )


def score_frame(
    challenge: Challenge,
    scores: pd.DataFrame,
    truth: pd.DataFrame,
    patients: pd.Series | None = None,
    *,
    name: str = "file",
    split: str = "truth",
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Evaluation:
    """Score probabilities of any origin, by id and class name; rows without a truth do not count.

    Raises UserError for an id of `truth` without a row in `scores`, a missing class, or a blank probability.
    """
    for frame, what in ((scores, "the scored file"), (truth, "the truth")):
        missing = [name for name in challenge.classes if name not in frame.columns]
        if missing:
            raise UserError(f"{what} lacks classes of {challenge.name}: {listing(missing)}.")
    absent = truth.index.difference(scores.index, sort=False)
    if len(absent):
        raise UserError(f"the scored file lacks rows of the truth: {listing(absent)}.")
    rows = scores.loc[truth.index, list(challenge.classes)]
    blank = rows.index[rows.isna().any(axis=1)]
    if len(blank):
        raise UserError(f"the scored file has rows without a probability: {listing(blank)}.")
    return score_rows(challenge, rows, truth, patients, name=name, split=split, n_draws=n_draws, seed=seed)


def macro_pair(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Macro mAP and mAUROC over the classes that have both values."""
    both = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    known = np.where(both, labels, np.nan)
    return float(macro(average_precision(known, scores))), float(macro(auroc(known, scores)))


def _macro_score(draws: Bootstrap, chosen: np.ndarray) -> MacroScore:
    def interval(values: np.ndarray, value_draws: np.ndarray) -> Interval:
        return basic_interval(float(macro(values[chosen])), macro(value_draws[:, chosen]))

    return MacroScore(
        int(chosen.sum()), interval(draws.ap, draws.ap_draws), interval(draws.auroc, draws.auroc_draws)
    )


def _class_scores(challenge: Challenge, labels: np.ndarray, draws: Bootstrap) -> tuple[ClassScore, ...]:
    group_of = {name: group for group, names in challenge.groups.items() for name in names}
    return tuple(
        ClassScore(
            name,
            group_of[name],
            int((~np.isnan(labels[:, c])).sum()),
            int((labels[:, c] == 1).sum()),
            basic_interval(float(draws.ap[c]), draws.ap_draws[:, c]),
            basic_interval(float(draws.auroc[c]), draws.auroc_draws[:, c]),
        )
        for c, name in enumerate(challenge.classes)
    )


def _plain(value: object) -> object:
    """Dataclasses as objects, NaN as None: what JSON can hold."""
    if hasattr(value, "__dataclass_fields__"):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
