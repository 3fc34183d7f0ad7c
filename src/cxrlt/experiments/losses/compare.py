"""The stage `cxrlt compare losses`: one recipe trained with several losses, all else equal."""

from collections.abc import Mapping, Sequence

from cxrlt.experiments.flags import ExperimentPlan
from cxrlt.experiments.losses.plan import LossExperiment
from cxrlt.experiments.losses.report import report
from cxrlt.experiments.losses.train_set_predictions import predict_runs
from cxrlt.experiments.losses.tune import settings_of, tune
from cxrlt.experiments.plan import Run
from cxrlt.experiments.report import title_of
from cxrlt.experiments.score import read_truths
from cxrlt.experiments.train import require_none_failed, train_runs
from cxrlt.experiments.workers import Workers
from cxrlt.inputs.images import ImageSource


def compare_losses(source: ImageSource, plan: ExperimentPlan) -> str:
    """Tune, train, predict and score what is not done yet, and write the tables. Returns them as Markdown.

    Raises UserError, after everything else is done, for runs that failed.
    """
    experiment = LossExperiment(source, plan)
    n_tuning, n_runs = len({v.tuning for v in experiment.variants}), len(experiment.variants) * plan.seeds
    print(
        f"{title_of(experiment)}: {len(experiment.variants)} variants, {plan.seeds} seeds, "
        f"folds {', '.join(map(str, experiment.folds))}: {n_runs * len(experiment.folds)} trainings and "
        f"{n_tuning * (len(set(plan.rates)) + 1)} more to tune, {experiment.n_workers} at a time",
        flush=True,
    )
    truths = read_truths(experiment)
    source.folded(
        experiment.present.rows.table, experiment.base.data.cache_size
    )  # one process builds the cache
    with Workers(experiment.n_workers) as workers:
        tuned, failures = tune(experiment, workers)
        settings = settings_of(tuned, experiment.variants)
        runs = [
            experiment.run(variant, seed, settings[variant.name].lr, settings[variant.name].clip_grad)
            for variant in experiment.variants
            if variant.name in settings
            for seed in range(plan.seeds)
        ]
        failures |= train_runs(experiment, workers, runs, experiment.folds, "train")
        runs = _complete(experiment, runs)
        failures |= predict_runs(experiment, workers, runs)
    runs = _predicted(runs, failures)
    first = experiment.variants[0].name
    comparable = any(run.variant == first for run in runs)
    text = report(experiment, runs, truths, settings) if comparable else ""
    require_none_failed(failures)
    return text


def _complete(experiment: LossExperiment, runs: Sequence[Run]) -> list[Run]:
    """The runs of the variants whose every seed and fold is trained."""
    missing = {r.variant for r in runs for fold in experiment.folds if not experiment.is_trained(r, fold)}
    return [run for run in runs if run.variant not in missing]


def _predicted(runs: Sequence[Run], failures: Mapping[str, str]) -> list[Run]:
    missing = {run.variant for run in runs if run.name in failures}
    return [run for run in runs if run.variant not in missing]
