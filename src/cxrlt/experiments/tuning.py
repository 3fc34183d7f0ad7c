"""Learning rate and gradient clipping of every variant, chosen before the comparison and apart from it.

They move the score more than losses do. Per variant: every rate with clipping on, then the best of them with
clipping off, compared by the challenge's metric on the rows that the experiment's first fold leaves out.
"""

import math
from collections.abc import Sequence

import pandas as pd

from cxrlt.experiments.experiment import TUNING_SEED, Experiment, Run
from cxrlt.experiments.variants import ExperimentVariant, Setting, Trial
from cxrlt.experiments.waves import Failures, train_wave
from cxrlt.system.atomic_files import write_json

CLIP_ON = 1.0  # where the recipe itself does not clip


def tune(experiment: Experiment) -> tuple[dict[str, Setting], Failures]:
    """The setting of every variant that has one, by its name; tuned.json has them by `tuning`. And failures.

    A setting whose training fails is a bad one; only a variant that fails with all of them is a failure.
    """
    parents: dict[str, ExperimentVariant] = {}
    for variant in experiment.variants:
        if variant.kind == "trained":
            parents.setdefault(variant.tuning, variant)
    fold, rates = experiment.folds[:1], _rates(experiment)
    runs = {name: [experiment.tuning_run(parent, s) for s in rates] for name, parent in parents.items()}
    tried = [run for group in runs.values() for run in group]
    failures = train_wave(experiment, "tune", tried, fold)
    if experiment.plan.list_jobs and experiment.unfinished(tried, fold):
        return {}, {}
    trials = {name: [_trial(experiment, run) for run in group] for name, group in runs.items()}
    best = {name: _best(group) for name, group in trials.items() if not _all_failed(group)}
    unclipped = {
        name: experiment.tuning_run(parents[name], Setting(trial.lr, None)) for name, trial in best.items()
    }
    tried = list(unclipped.values())
    train_wave(experiment, "tune without clipping", tried, fold)
    if experiment.plan.list_jobs and experiment.unfinished(tried, fold):
        return {}, {}
    tuned = {
        name: _tuned([*trials[name], _trial(experiment, run)], best[name], rates)
        for name, run in unclipped.items()
    }
    hopeless = {run.name for name, group in runs.items() if name not in tuned for run in group}
    failures = {label: why for label, why in failures.items() if label.partition(" ")[0] in hopeless}
    _write(experiment, tuned)
    names = {
        v.name: v.tuning if v.kind == "trained" else experiment.reference.tuning for v in experiment.variants
    }
    return {name: tuned[tuning] for name, tuning in names.items() if tuning in tuned}, failures


def last_score(experiment: Experiment, run: Run, fold: int) -> float:
    """The challenge's metric after the last epoch; NaN if the fold is not trained."""
    if not experiment.is_trained(run, fold):
        return math.nan
    log = pd.read_csv(experiment.fold_dir(run, fold) / "log.csv")
    return float(log[f"oof_{experiment.challenge.metric}"].iloc[-1])


def _rates(experiment: Experiment) -> list[Setting]:
    """Every rate with clipping on, the lowest first."""
    optim = experiment.base.optim
    clip_on = optim.clip_grad or CLIP_ON
    return [Setting(optim.lr * rate, clip_on) for rate in sorted(set(experiment.plan.rates))]


def _trial(experiment: Experiment, run: Run) -> Trial:
    optim, score = run.recipe.optim, last_score(experiment, run, experiment.folds[0])
    return Trial(optim.lr, optim.clip_grad, score)


def _all_failed(trials: Sequence[Trial]) -> bool:
    return all(math.isnan(trial.score) for trial in trials)


def _best(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=lambda trial: -math.inf if math.isnan(trial.score) else trial.score)


def _tuned(trials: list[Trial], clipped: Trial, rates: Sequence[Setting]) -> Setting:
    """The best of all; the edge is that of the rates, which were all tried with clipping on."""
    edges = {rates[0].lr: "lowest", rates[-1].lr: "highest"} if len(rates) > 1 else {}
    return Setting(clipped.lr, _best(trials).clip_grad, edges.get(clipped.lr, ""), tuple(trials))


def _write(experiment: Experiment, tuned: dict[str, Setting]) -> None:
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
    facts = {"metric": experiment.challenge.metric, "fold": experiment.folds[0], "seed": TUNING_SEED}
    write_json(experiment.results_dir / "tuned.json", facts | {"settings": chosen})
