"""Learning rate and gradient clipping of every loss, chosen before the comparison and apart from it.

They move the score more than the losses do. Per loss: every rate with clipping on, then the best of them with
clipping off; judged by the challenge's metric on the rows that the experiment's first fold leaves out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from cxrlt.experiments.losses.plan import TUNING_SEED, LossExperiment
from cxrlt.experiments.losses.variants import Variant
from cxrlt.experiments.plan import Run
from cxrlt.experiments.train import train_runs
from cxrlt.experiments.workers import Workers
from cxrlt.system.atomic_files import write_json

CLIP_ON = 1.0  # where the recipe itself does not clip


@dataclass(frozen=True)
class Trial:
    """A setting and its score, NaN where training broke off (the loss became infinite)."""

    lr: float
    clip_grad: float | None
    score: float


@dataclass(frozen=True)
class Tuned:
    """The setting that a loss is compared with. `edge`: the best rate is the lowest or highest tried."""

    lr: float
    clip_grad: float | None
    edge: str
    trials: tuple[Trial, ...]


def tune(experiment: LossExperiment, workers: Workers) -> tuple[dict[str, Tuned], dict[str, str]]:
    """The settings by their name (`Variant.tuning`), also written to tuned.json; and what failed.

    A setting whose training fails is a bad one; only a loss that fails in all of them is a failure.
    """
    parents: dict[str, Variant] = {}
    for variant in experiment.variants:
        parents.setdefault(variant.tuning, variant)
    fold, clip_on = experiment.folds[:1], experiment.base.optim.clip_grad or CLIP_ON
    lrs = [experiment.base.optim.lr * rate for rate in sorted(set(experiment.plan.rates))]
    runs = {
        name: [experiment.tuning_run(parent, lr, clip_on) for lr in lrs] for name, parent in parents.items()
    }
    failures = train_runs(experiment, workers, _flat(runs), fold, "tune")
    trials = {name: [_trial(experiment, run) for run in group] for name, group in runs.items()}
    best = {name: _best(tried) for name, tried in trials.items() if not _all_failed(tried)}
    unclipped = {name: experiment.tuning_run(parents[name], trial.lr, None) for name, trial in best.items()}
    train_runs(experiment, workers, list(unclipped.values()), fold, "tune without clipping")
    tuned = {
        name: _tuned([*trials[name], _trial(experiment, run)], best[name], lrs)
        for name, run in unclipped.items()
    }
    _write(experiment, tuned)
    hopeless = {run.name for name, group in runs.items() if name not in tuned for run in group}
    return tuned, {label: why for label, why in failures.items() if label.partition(" ")[0] in hopeless}


def last_score(experiment: LossExperiment, run: Run, fold: int) -> float:
    """The challenge's metric after the last epoch; NaN if the fold is not trained."""
    path = experiment.fold_dir(run, fold) / "log.csv"
    if not experiment.is_trained(run, fold):
        return math.nan
    return float(pd.read_csv(path)[f"oof_{experiment.challenge.metric}"].iloc[-1])


def _trial(experiment: LossExperiment, run: Run) -> Trial:
    return Trial(
        run.recipe.optim.lr, run.recipe.optim.clip_grad, last_score(experiment, run, experiment.folds[0])
    )


def _all_failed(trials: Sequence[Trial]) -> bool:
    return all(math.isnan(trial.score) for trial in trials)


def _best(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=lambda trial: -math.inf if math.isnan(trial.score) else trial.score)


def _tuned(trials: list[Trial], clipped: Trial, lrs: Sequence[float]) -> Tuned:
    """The best of all; the edge is that of the rates, which were all tried with clipping on."""
    edges = {lrs[0]: "lowest", lrs[-1]: "highest"} if len(lrs) > 1 else {}
    return Tuned(clipped.lr, _best(trials).clip_grad, edges.get(clipped.lr, ""), tuple(trials))


def _flat(runs: dict[str, list[Run]]) -> list[Run]:
    return [run for group in runs.values() for run in group]


def _write(experiment: LossExperiment, tuned: dict[str, Tuned]) -> None:
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


def settings_of(tuned: dict[str, Tuned], variants: Sequence[Variant]) -> dict[str, Tuned]:
    """The setting of every variant that has one, by the variant's name."""
    return {variant.name: tuned[variant.tuning] for variant in variants if variant.tuning in tuned}
