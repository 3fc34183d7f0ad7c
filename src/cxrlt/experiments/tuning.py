"""Tuning of learning rate and gradient clipping for every variant, before the comparison.

Both change the score more than the choice of the loss. For each variant: train with every learning rate and
clipping on, then with the best learning rate and clipping off. Score: the challenge's metric on the
out-of-fold rows of the experiment's first fold.
"""

import math
from collections.abc import Callable, Sequence

import pandas as pd

from cxrlt.experiments.experiment import TUNING_SEED, Experiment, Row, Run
from cxrlt.experiments.variants import ExperimentVariant, OptimSettings, Trial
from cxrlt.experiments.waves import Failures, train_wave
from cxrlt.system.atomic_files import write_json
from cxrlt.training.run_paths import LOG

DEFAULT_CLIP_GRAD = 1.0  # for recipes without gradient clipping
SETTING_COLUMNS: Sequence[tuple[str, Callable[[Row], str]]] = (
    ("lr", lambda row: f"{row['lr']:.3g}" + (f" ({row['lr_edge']})" if row["lr_edge"] else "")),
    ("clip", lambda row: "off" if row["clip_grad"] is None else f"{row['clip_grad']:g}"),
)
"""Columns of the tables: heading, and the function that formats a row of results.csv."""
SETTING_LEGEND = "Lowest or highest: the learning rate is at the edge of the tested range."


def tune(experiment: Experiment) -> tuple[dict[str, OptimSettings], Failures]:
    """Return the best setting of every variant, by the variant's name, and the failures.

    Writes tuned.json, by `tuning_name`. A failed training only rules out its setting; a variant fails if all
    its trainings fail.
    """
    variant_by_tuning_name: dict[str, ExperimentVariant] = {}
    for variant in experiment.variants:
        if variant.kind == "trained":
            variant_by_tuning_name.setdefault(variant.tuning_name, variant)
    fold = experiment.folds[:1]
    rates = {name: candidate_settings(experiment, v) for name, v in variant_by_tuning_name.items()}
    runs = {
        name: [experiment.candidate_run(variant, s) for s in rates[name]]
        for name, variant in variant_by_tuning_name.items()
    }
    candidates = [run for group in runs.values() for run in group]
    failures = train_wave(experiment, "tune", candidates, fold)
    if experiment.plan.list_jobs and experiment.unfinished_folds(candidates, fold):
        return {}, {}
    trials = {name: [_trial(experiment, run) for run in group] for name, group in runs.items()}
    best = {name: _best_trial(group) for name, group in trials.items() if not _all_failed(group)}
    unclipped = {
        name: experiment.candidate_run(variant_by_tuning_name[name], OptimSettings(trial.lr, None))
        for name, trial in best.items()
    }
    candidates = list(unclipped.values())
    train_wave(experiment, "tune without clipping", candidates, fold)
    if experiment.plan.list_jobs and experiment.unfinished_folds(candidates, fold):
        return {}, {}
    tuned = {
        name: _choose_settings([*trials[name], _trial(experiment, run)], best[name], rates[name])
        for name, run in unclipped.items()
    }
    failed_names = {run.name for name, group in runs.items() if name not in tuned for run in group}
    failures = {label: why for label, why in failures.items() if label.partition(" ")[0] in failed_names}
    _write_tuned(experiment, tuned)
    names = {
        v.name: v.tuning_name if v.kind == "trained" else experiment.reference.tuning_name
        for v in experiment.variants
    }
    return {name: tuned[tuning] for name, tuning in names.items() if tuning in tuned}, failures


def last_oof_score(experiment: Experiment, run: Run, fold: int) -> float:
    """Return the challenge's metric after the last epoch; NaN if the fold is not trained."""
    if not experiment.is_trained(run, fold):
        return math.nan
    log = pd.read_csv(experiment.fold_dir(run, fold) / LOG)
    return float(log[f"oof_{experiment.challenge.metric}"].iloc[-1])


def candidate_settings(experiment: Experiment, variant: ExperimentVariant) -> list[OptimSettings]:
    """Return a setting for every learning rate of a variant, with clipping on, the lowest first."""
    optim = variant.recipe(experiment.base).optim
    clip_on = optim.clip_grad or DEFAULT_CLIP_GRAD
    return [OptimSettings(optim.lr * rate, clip_on) for rate in sorted(set(experiment.plan.rates))]


def _trial(experiment: Experiment, run: Run) -> Trial:
    optim, score = run.recipe.optim, last_oof_score(experiment, run, experiment.folds[0])
    return Trial(optim.lr, optim.clip_grad, score)


def _all_failed(trials: Sequence[Trial]) -> bool:
    return all(math.isnan(trial.score) for trial in trials)


def _best_trial(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=lambda trial: -math.inf if math.isnan(trial.score) else trial.score)


def _choose_settings(
    trials: list[Trial], best_clipped: Trial, rates: Sequence[OptimSettings]
) -> OptimSettings:
    """Return the best setting, and whether its learning rate is the lowest or highest candidate."""
    edges = {rates[0].lr: "lowest", rates[-1].lr: "highest"} if len(rates) > 1 else {}
    return OptimSettings(
        best_clipped.lr, _best_trial(trials).clip_grad, edges.get(best_clipped.lr, ""), tuple(trials)
    )


def _write_tuned(experiment: Experiment, tuned: dict[str, OptimSettings]) -> None:
    chosen = {
        name: {
            "lr": setting.lr,
            "clip_grad": setting.clip_grad,
            "edge": setting.edge,
            "trials": [
                vars(trial) | {"score": None if math.isnan(trial.score) else trial.score}
                for trial in setting.trials
            ],
        }
        for name, setting in tuned.items()
    }
    header = {"metric": experiment.challenge.metric, "fold": experiment.folds[0], "seed": TUNING_SEED}
    write_json(experiment.results_dir / "tuned.json", header | {"settings": chosen})
