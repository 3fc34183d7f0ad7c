"""The problems that a run report puts first, each with the command to try next."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cxrlt.errors import listing
from cxrlt.inputs.check import inspect_inputs
from cxrlt.predictions.scoring import Evaluation
from cxrlt.recipe import recipe_names
from cxrlt.reports.report_data import ReportData
from cxrlt.submissions.evaluate import OPTIMISTIC

N_SHOWN = 3
"""Problems in the summary: our choice."""
MIN_CHANGE = 0.01
"""Changes of a score below this are not reported: the noise between two seeds of small trainings."""
MAX_WAIT_SHARE = 0.2
"""Share of a training that may wait for data: our choice."""
MIN_EPOCHS = 4
"""Shorter trainings have no curve to judge."""
MAX_NAMED = 5
"""Names in a sentence: our choice."""


@dataclass(frozen=True)
class Finding:
    """A problem in words and the command to try; a higher `weight` is more serious."""

    weight: int
    text: str
    command: str


def largest_problems(data: ReportData) -> list[Finding]:
    """Return the most serious problems, at most three."""
    return sorted(_find(data), key=lambda finding: -finding.weight)[:N_SHOWN]


def _find(data: ReportData) -> Iterator[Finding]:
    yield from _data_problems(data)
    yield from _state_problems(data)
    yield from _score_problems(data)
    yield from _ensemble_problems(data)
    yield from _training_problems(data)
    yield from _speed_problems(data)
    yield from _probability_problems(data)


def _data_problems(data: ReportData) -> Iterator[Finding]:
    challenge, folds = data.challenge, data.current.folds
    drops = folds.record.drop_shared_patients
    if n := len(inspect_inputs(challenge, data.workspace, True, drops).problems):
        text = f"The tables or images have {n} problem{'s' * (n > 1)}."
        yield Finding(9, text, f"cxrlt check {challenge.name}")
    if folds.leakage_notes(challenge):
        text = "Images of one patient are in several folds, so every score is too high."
        yield Finding(10, text, f"cxrlt folds {challenge.name} --force")


def _state_problems(data: ReportData) -> Iterator[Finding]:
    counts = Counter(state.state for state in data.states)
    bad = [f"{counts[state]} {state}" for state in ("failed", "stopped", "outdated") if counts[state]]
    if bad:
        text = f"Not every fold is trained and current: {', '.join(bad)}."
        yield Finding(8, text, f"cxrlt status {data.challenge.name}")
    if data.board.skipped:
        names = listing(data.board.skipped, MAX_NAMED)
        text = f"Not scored, because predictions are missing or outdated: {names}."
        yield Finding(
            8, text, f"cxrlt evaluate {next(iter(data.board.skipped))} --challenge {data.challenge.name}"
        )


def _score_problems(data: ReportData) -> Iterator[Finding]:
    best, name = data.best, data.challenge.name
    if OPTIMISTIC in best.notes:
        text = (
            "The epochs of the best were chosen on the rows that it is scored on, so its score is too high."
        )
        yield Finding(7, text, f"cxrlt train RECIPE --predict.weights best_holdout --challenge {name}")
    weak = [each.name for each in best.classes if _is_chance(each.metrics["AUROC"].low)]
    if weak:
        text = f"{len(weak)} classes are not measurably better than chance: {listing(weak, MAX_NAMED)}."
        command = f"cxrlt compare tricks {name} --tricks repeat_factor class_balanced"
        yield Finding(4, text, command)
    yield from _fold_problems(data, best)


def _is_chance(low: float) -> bool:
    return not np.isnan(low) and low < 0.5


def _fold_problems(data: ReportData, best: Evaluation) -> Iterator[Finding]:
    values = [fold[best.metric] for fold in best.per_fold]
    interval = best.overall.metrics[best.metric]
    half_width = (interval.high - interval.low) / 2 * np.sqrt(max(len(values), 1))
    worst = int(np.argmin(values)) if values else 0
    if values and np.mean(values) - values[worst] > 2 * half_width:
        gap = np.mean(values) - values[worst]
        text = f"Fold {worst} is {gap:.3f} {best.metric} below the mean of the folds."
        yield Finding(5, text, f"cxrlt evaluate {best.name} --challenge {data.challenge.name}")


def _ensemble_problems(data: ReportData) -> Iterator[Finding]:
    name, models = data.challenge.name, data.models
    if len(models) == 1:
        others = [recipe for recipe in data.challenge.recipes if recipe not in models] or ["RECIPE"]
        text = "There is one model only. Models with another backbone make an ensemble better."
        yield Finding(5, text, f"cxrlt train {others[0]} --challenge {name}")
    elif not data.is_ensemble(data.best.name):
        text = f"{len(models)} models are trained, but they are not combined."
        yield Finding(6, text, f"cxrlt ensemble ensemble --members {' '.join(models)} --challenge {name}")
    elif len(models) > 1 and data.board.evaluations[0].name in models:
        text = f"The ensemble is not better than {data.board.evaluations[0].name} alone."
        yield Finding(
            5, text, f"cxrlt ensemble greedy --kind greedy --members {' '.join(models)} --challenge {name}"
        )


def _training_problems(data: ReportData) -> Iterator[Finding]:
    """Yield what the training curves say, each averaged over the folds of a model."""
    longer: dict[str, tuple[float, int]] = {}
    shorter: dict[str, tuple[float, int]] = {}
    for name in data.models:
        column, logs = f"oof_{data.metric}", data.logs(name).values()
        curves = [log[column].to_numpy() for log in logs if column in log]
        if not curves or len({len(curve) for curve in curves}) > 1 or len(curves[0]) < MIN_EPOCHS:
            continue
        mean = np.mean(curves, axis=0)
        before = mean[-1 - len(mean) // 4]
        if mean[-1] == mean.max() and mean[-1] - before > MIN_CHANGE:
            longer[name] = (mean[-1] - before, 2 * len(mean))
        elif mean.max() - mean[-1] > MIN_CHANGE:
            shorter[name] = (mean.max() - mean[-1], int(mean.argmax()) + 1)
    for found, weight, what, word in (
        (longer, 6, "still gets better in the last quarter of its epochs", "longer"),
        (shorter, 5, "overfits: the last epoch is below the best", "shorter"),
    ):
        if found:
            name = max(found, key=lambda each: found[each][0])
            gap, epochs = found[name]
            also = listing([each for each in found if each != name], MAX_NAMED)
            others = f" The same is true of {also}." if also else ""
            recipe = name if name in recipe_names() else "RECIPE"
            command = f"cxrlt train {recipe} --challenge {data.challenge.name} --schedule.epochs {epochs}"
            text = f"{name} {what} ({data.metric}: {gap:.3f}).{others}"
            yield Finding(weight, text, f"{command} --name {name}_{word}")


def _speed_problems(data: ReportData) -> Iterator[Finding]:
    waits = {
        name: max((log["data_wait_share"].median() for log in data.logs(name).values()), default=0.0)
        for name in data.models
    }
    name = max(waits, key=lambda each: waits[each], default="")
    if name and waits[name] > MAX_WAIT_SHARE:
        text = f"The training of {name} waits for data {waits[name]:.0%} of the time."
        yield Finding(4, text, "bash run.sh bench loader")


def _probability_problems(data: ReportData) -> Iterator[Finding]:
    if data.challenge.task == "multi_label" and not data.is_calibrated:
        text = f"The probabilities of {data.best.name} are not calibrated, and it has no thresholds."
        yield Finding(3, text, f"cxrlt calibrate {data.best.name} --challenge {data.challenge.name}")
