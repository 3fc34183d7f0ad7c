"""The stage `cxrlt calibrate`: probabilities that mean what they say, fitted on out-of-fold rows.

Losses for long tails are no proper scores: where one in 500 images is positive, RAL's own optimum is a
probability of .35. The maps fitted here rise strictly in every class, so no ranking changes; what changes is
what a probability of .5 means.

Folds' logits and their average for dev and test have been put on one scale (`FinalLogits`), on which the
maps are fitted and applied. An average is a little surer than one fold's logit, which the maps do not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.calibration import METHODS, VARIANTS, Method, Variant
from cxrlt.calibration.fitted import Calibration, fit_calibration, write_calibration
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.current import notes_of
from cxrlt.ensembles.final_logits import load_final_logits, present_for
from cxrlt.errors import UserError
from cxrlt.folds.read import REFIT
from cxrlt.metrics import BootstrapSamples, Interval, has_both_values, macro, macro_metric, paired_difference
from cxrlt.metrics.calibration import LOG_LOSS, calibration_bootstrap
from cxrlt.predictions.present import Present
from cxrlt.predictions.scoring import N_DRAWS
from cxrlt.predictions.standardise import predicted_rows


@dataclass(frozen=True)
class VariantScore:
    """Nested out-of-fold figures of one variant.

    `ranking` is the challenge's metric within each fold, averaged over folds: a fold's rows are mapped by one
    map. `figures` are those of `calibration_bootstrap`, `differences` theirs minus the raw logits'.
    """

    ranking: float
    figures: Mapping[str, Interval]
    differences: Mapping[str, Interval]


@dataclass(frozen=True)
class CalibrationReport:
    """What `cxrlt calibrate` found.

    `behind` are the nested log-losses of the methods tried minus the best one's.
    """

    challenge: str
    name: str
    metric: str
    calibration: Calibration
    path: Path
    n_rows: int
    forced: bool
    behind: Mapping[Method, Interval]
    variants: Mapping[Variant, VariantScore]
    n_positive: Mapping[str, int]
    notes: tuple[str, ...] = ()


def calibrate(
    challenge: Challenge,
    workspace: Workspace,
    name: str,
    method: Method | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    *,
    partial: bool = False,
) -> CalibrationReport:
    """Fit maps and thresholds of a run or an ensemble, write calibration.json, and say what they are worth.

    Every figure is nested: a row of fold k is calibrated by what was fitted without fold k, on predictions
    that were put together without it. Without `method` the simplest one is taken whose nested log-loss is
    within noise of the best. With `partial` the folds that are finished are enough. Raises UserError for one
    class per row, a refit, incomplete out-of-fold predictions, and labels that leave nothing to fit.
    """
    require_multi_label(challenge, name)
    present = _present_folds(challenge, workspace, name, partial)
    nested = Nested.read(name, present)
    mapped = {each: nested.logits(each) for each in ([method] if method else METHODS)}
    drawn = {each: nested.draw(logits["calibrated"], n_draws, seed) for each, logits in mapped.items()}
    behind = _behind({each: figures[LOG_LOSS] for each, figures in drawn.items()})
    chosen = next(each for each, gap in behind.items() if gap.low <= 0)
    final = load_final_logits(name, "oof", present).logits
    calibration = fit_calibration(chosen, final.loc[nested.ids], nested.labels)
    figures = {
        each: drawn[chosen] if each == "calibrated" else nested.draw(logits, n_draws, seed)
        for each, logits in mapped[chosen].items()
    }
    rankings = {each: nested.ranking(challenge.metric, logits) for each, logits in mapped[chosen].items()}
    return CalibrationReport(
        challenge=challenge.name,
        name=name,
        metric=challenge.metric,
        calibration=calibration,
        path=write_calibration(name, present, calibration),
        n_rows=len(nested.ids),
        forced=method is not None,
        behind=behind,
        variants={each: _variant_score(rankings[each], figures[each], figures["raw"]) for each in figures},
        n_positive=(nested.labels == 1).sum().to_dict(),
        notes=tuple(notes_of(name, "oof", present)),
    )


def _present_folds(challenge: Challenge, workspace: Workspace, name: str, partial: bool) -> Present:
    """The folds to calibrate on. Raises UserError for an unknown run, a refit, and a fold that is alone."""
    if (workspace.run_dir(challenge.name, name) / REFIT).is_dir():
        raise UserError(
            f"{name} was fitted on all rows (--refit), so it has no out-of-fold predictions to calibrate on. "
            "Submit it with --probabilities raw"
        )
    present = present_for(challenge, workspace, name, partial=partial)
    if partial and len(present.folds.held) < 2:
        raise UserError(
            f"Only fold {present.folds.held[0]} of {name} is finished, and what calibrates a fold is fitted "
            f"on others. Finish one more: cxrlt train RECIPE --name {name} --challenge {challenge.name}"
        )
    return present


def require_multi_label(challenge: Challenge, name: str) -> None:
    """Raises UserError for one class per row."""
    if challenge.task == "single_label":
        raise UserError(
            f"{challenge.name} has one class per row, and a map per class would change which one is highest: "
            f"{name} cannot be calibrated. Submit it with --probabilities raw"
        )


@dataclass(frozen=True)
class Nested:
    """Logits of all rows as they are without each fold (fold -> frame), with their labels and patients."""

    without: Mapping[int, pd.DataFrame]
    labels: pd.DataFrame
    fold: pd.Series
    patients: pd.Series

    @classmethod
    def read(cls, name: str, present: Present) -> "Nested":
        """Raises UserError as `load_final_logits`, and if no class has both values."""
        challenge, rows = present.challenge, present.rows
        without = {
            fold: load_final_logits(name, "oof", present, exclude_fold=fold).logits
            for fold in present.folds.held
        }
        ids = rows.table.index
        for frame in without.values():
            ids = ids.intersection(predicted_rows(frame), sort=False)
        table = rows.table.loc[ids]
        labels = table[list(challenge.classes)]
        if not has_both_values(labels.to_numpy()).any():
            raise UserError(f"{challenge.name} train: no class has both positive and negative rows.")
        without = {fold: frame.loc[ids] for fold, frame in without.items()}
        return cls(without, labels, rows.fold.loc[ids], table["patient"])

    @property
    def ids(self) -> pd.Index:
        return self.labels.index

    def logits(self, method: Method) -> dict[Variant, pd.DataFrame]:
        """Every row's logits, mapped by what was fitted on the rows of other folds."""
        parts: dict[Variant, list[pd.DataFrame]] = {variant: [] for variant in VARIANTS}
        for fold, frame in self.without.items():
            inside = self.fold == fold
            fitted = fit_calibration(method, frame[~inside], self.labels)
            for variant, frames in parts.items():
                frames.append(fitted.apply(frame[inside], variant))
        return {variant: pd.concat(frames).loc[self.ids] for variant, frames in parts.items()}

    def draw(self, logits: pd.DataFrame, n_draws: int, seed: int) -> Mapping[str, BootstrapSamples]:
        """Local ECE, F1 at .5 and log-loss, with patients drawn, or rows where they are not known."""
        by_row = self.patients.isna().any()
        clusters = np.arange(len(logits)) if by_row else self.patients.to_numpy(str)
        return calibration_bootstrap(self.labels, logits, clusters, n_draws, seed)

    def ranking(self, metric: str, logits: pd.DataFrame) -> float:
        """The mean over folds of `metric` within each."""
        parts = [part for _, part in logits.groupby(self.fold)]
        return float(macro([macro_metric(metric, self.labels.loc[part.index], part) for part in parts]))


def _behind(losses: Mapping[Method, BootstrapSamples]) -> dict[Method, Interval]:
    best = min(losses.values(), key=lambda drawn: drawn.value)
    return {method: paired_difference(drawn, best) for method, drawn in losses.items()}


def _variant_score(
    ranking: float, mine: Mapping[str, BootstrapSamples], raw: Mapping[str, BootstrapSamples]
) -> VariantScore:
    return VariantScore(
        ranking,
        {name: each.interval() for name, each in mine.items()},
        {name: paired_difference(each, raw[name]) for name, each in mine.items()},
    )
