"""The stage `cxrlt calibrate`: fit calibrated probabilities on out-of-fold rows.

Losses for long-tailed data are not proper scoring rules: if 1 in 500 images is positive, the optimum of RAL
is a probability of 0.35. The maps fitted here are strictly increasing in every class. No ranking changes,
only the values of the probabilities.

`FinalLogits` puts the logits of the folds, and their average for dev and test, on one scale. The maps are
fitted and applied on this scale. An average over folds is slightly more confident than the logit of one fold;
the maps do not correct this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.calibration import METHODS, VARIANTS, Method, Variant
from cxrlt.calibration.artifact import Calibration, fit_calibration, write_calibration
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.final_logits import get_current_data, load_final_logits
from cxrlt.ensembles.provenance import collect_notes
from cxrlt.errors import UserError
from cxrlt.folds.read import REFIT
from cxrlt.metrics import BootstrapSamples, Interval, has_both_values, macro, macro_metric, paired_difference
from cxrlt.metrics.calibration import LOG_LOSS, calibration_bootstrap
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.scoring import N_DRAWS
from cxrlt.predictions.standardise import predicted_ids


@dataclass(frozen=True)
class VariantScore:
    """Nested out-of-fold metrics of one variant.

    `ranking` is the challenge's metric within each fold, averaged over folds, because each fold has its own
    maps. `metrics` are those of `calibration_bootstrap`; `differences` are `metrics` minus those of raw
    logits.
    """

    ranking: float
    metrics: Mapping[str, Interval]
    differences: Mapping[str, Interval]


@dataclass(frozen=True)
class CalibrationReport:
    """The result of `cxrlt calibrate`.

    `behind` has the nested log-loss of every tried method minus that of the best one.
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
    """Fit maps and thresholds of a run or an ensemble, write calibration.json, and measure the improvement.

    Every metric is nested: a row of fold k is calibrated by maps that were fitted without fold k, on
    predictions that were combined without it. Without `method` the simplest method is taken whose nested
    log-loss is within noise of the best. `partial` uses the finished folds only. Raises UserError for a
    single-label task, a refit, incomplete predictions, and if no class has positives and negatives.
    """
    require_multi_label(challenge, name)
    current = _finished_folds(challenge, workspace, name, partial)
    nested = NestedLogits.read(name, current)
    methods = (method,) if method else METHODS
    mapped = {each: nested.logits(each) for each in methods}
    draws = {each: nested.bootstrap(logits["calibrated"], n_draws, seed) for each, logits in mapped.items()}
    behind = _differences_to_best({each: samples[LOG_LOSS] for each, samples in draws.items()})
    chosen = next(each for each, difference in behind.items() if difference.low <= 0)
    final = load_final_logits(name, "oof", current).logits
    calibration = fit_calibration(chosen, final.loc[nested.ids], nested.labels)
    samples = {
        each: draws[chosen] if each == "calibrated" else nested.bootstrap(logits, n_draws, seed)
        for each, logits in mapped[chosen].items()
    }
    rankings = {each: nested.ranking(challenge.metric, logits) for each, logits in mapped[chosen].items()}
    return CalibrationReport(
        challenge=challenge.name,
        name=name,
        metric=challenge.metric,
        calibration=calibration,
        path=write_calibration(name, current, calibration),
        n_rows=len(nested.ids),
        forced=method is not None,
        behind=behind,
        variants={each: _variant_score(rankings[each], samples[each], samples["raw"]) for each in samples},
        n_positive={name: int((nested.labels[name] == 1).sum()) for name in challenge.classes},
        notes=tuple(collect_notes(name, "oof", current)),
    )


def _finished_folds(challenge: Challenge, workspace: Workspace, name: str, partial: bool) -> CurrentData:
    """Return the folds to calibrate on. Raises UserError for an unknown run, a refit, or a single fold."""
    if (workspace.run_dir(challenge.name, name) / REFIT).is_dir():
        raise UserError(
            f"{name} was fitted on all rows (--refit), so it has no out-of-fold predictions to calibrate on. "
            "Submit it with --probabilities raw"
        )
    current = get_current_data(challenge, workspace, name, partial=partial)
    if partial and len(current.folds.fold_numbers) < 2:
        raise UserError(
            f"Only fold {current.folds.fold_numbers[0]} of {name} is finished, but the calibration of a "
            f"fold is fitted on the other folds. Train one more: cxrlt train RECIPE --name {name} "
            f"--challenge {challenge.name}"
        )
    return current


def require_multi_label(challenge: Challenge, name: str) -> None:
    """Raise UserError for a single-label task."""
    if challenge.task == "single_label":
        raise UserError(
            f"{name} cannot be calibrated: {challenge.name} is a single-label task, and a map per class "
            "would change which class is highest. Submit it with --probabilities raw"
        )


@dataclass(frozen=True)
class NestedLogits:
    """Logits of all rows, computed without each fold, with labels, folds and patients.

    `without[k]` (index image_id, one column per class) has all rows, computed without fold k.
    """

    without: Mapping[int, pd.DataFrame]
    labels: pd.DataFrame
    fold: pd.Series
    patients: pd.Series

    @classmethod
    def read(cls, name: str, current: CurrentData) -> "NestedLogits":
        """Load the logits of a run or an ensemble.

        Raises UserError as `load_final_logits` does, and if no class has positives and negatives.
        """
        challenge, rows = current.challenge, current.rows
        without = {
            fold: load_final_logits(name, "oof", current, exclude_fold=fold).logits
            for fold in current.folds.fold_numbers
        }
        ids = rows.table.index
        for frame in without.values():
            ids = ids.intersection(predicted_ids(frame), sort=False)
        table = rows.table.loc[ids]
        labels = table[list(challenge.classes)]
        if not has_both_values(labels.to_numpy()).any():
            raise UserError(f"{challenge.name} train: no class has both positive and negative rows.")
        without = {fold: frame.loc[ids] for fold, frame in without.items()}
        return cls(without, labels, rows.fold.loc[ids], table["patient"])

    @property
    def ids(self) -> pd.Index:
        """Ids of the rows."""
        return self.labels.index

    def logits(self, method: Method) -> dict[Variant, pd.DataFrame]:
        """Return the logits of every row by variant, mapped by maps that were fitted on the other folds.

        Each frame has the index image_id and one column per class.
        """
        parts: dict[Variant, list[pd.DataFrame]] = {variant: [] for variant in VARIANTS}
        for fold, frame in self.without.items():
            inside = self.fold == fold
            fitted = fit_calibration(method, frame[~inside], self.labels)
            for variant, frames in parts.items():
                frames.append(fitted.apply(frame[inside], variant))
        return {variant: pd.concat(frames).loc[self.ids] for variant, frames in parts.items()}

    def bootstrap(self, logits: pd.DataFrame, n_draws: int, seed: int) -> Mapping[str, BootstrapSamples]:
        """Return local ECE, F1 at 0.5 and log-loss of logits (index image_id, one column per class).

        The bootstrap resamples patients, or rows if a patient is unknown.
        """
        by_row = self.patients.isna().any()
        clusters = np.arange(len(logits)) if by_row else self.patients.to_numpy(str)
        return calibration_bootstrap(self.labels, logits, clusters, n_draws, seed)

    def ranking(self, metric: str, logits: pd.DataFrame) -> float:
        """Return the mean over folds of `metric` within each fold.

        `logits` have the index image_id and one column per class.
        """
        parts = [part for _, part in logits.groupby(self.fold)]
        return float(macro([macro_metric(metric, self.labels.loc[part.index], part) for part in parts]))


def _differences_to_best(losses: Mapping[Method, BootstrapSamples]) -> dict[Method, Interval]:
    best = min(losses.values(), key=lambda samples: samples.value)
    return {method: paired_difference(samples, best) for method, samples in losses.items()}


def _variant_score(
    ranking: float, variant: Mapping[str, BootstrapSamples], raw: Mapping[str, BootstrapSamples]
) -> VariantScore:
    return VariantScore(
        ranking,
        {name: samples.interval() for name, samples in variant.items()},
        {name: paired_difference(samples, raw[name]) for name, samples in variant.items()},
    )
