"""The stage `cxrlt study`: train one recipe with several losses, alike but for the loss, and compare them."""

from collections.abc import Mapping, Sequence

from cxrlt.inputs.images import ImageSource
from cxrlt.studies.flags import StudyPlan
from cxrlt.studies.losses.plan import LossStudy
from cxrlt.studies.losses.report import report
from cxrlt.studies.losses.seen import predict_runs
from cxrlt.studies.losses.tune import settings_of, tune
from cxrlt.studies.plan import Run
from cxrlt.studies.score import read_truths
from cxrlt.studies.train import require_none_failed, train_runs
from cxrlt.studies.workers import Workers


def study_losses(source: ImageSource, plan: StudyPlan) -> str:
    """Tune, train, predict and score what is not done yet, and write the tables. Returns them as Markdown.

    Raises UserError, after everything else is done, for runs that failed.
    """
    study = LossStudy(source, plan)
    n_tuning, n_runs = len({v.tuning for v in study.variants}), len(study.variants) * plan.seeds
    print(
        f"{study.name} on {study.challenge.name}: {len(study.variants)} variants, {plan.seeds} seeds, "
        f"folds {', '.join(map(str, study.folds))}: {n_runs * len(study.folds)} trainings and "
        f"{n_tuning * (len(set(plan.rates)) + 1)} more to tune, {study.n_workers} at a time",
        flush=True,
    )
    truths = read_truths(study)
    source.folded(study.present.rows.table, study.base.data.cache_size)  # one process builds the cache
    with Workers(study.n_workers) as workers:
        tuned, failures = tune(study, workers)
        settings = settings_of(tuned, study.variants)
        runs = [
            study.run(variant, seed, settings[variant.name].lr, settings[variant.name].clip_grad)
            for variant in study.variants
            if variant.name in settings
            for seed in range(plan.seeds)
        ]
        failures |= train_runs(study, workers, runs, study.folds, "train")
        runs = _complete(study, runs)
        failures |= predict_runs(study, workers, runs)
    runs = _predicted(runs, failures)
    first = study.variants[0].name
    comparable = any(run.variant == first for run in runs)
    text = report(study, runs, truths, settings) if comparable else ""
    require_none_failed(failures)
    return text


def _complete(study: LossStudy, runs: Sequence[Run]) -> list[Run]:
    """The runs of the variants whose every seed and fold is trained."""
    missing = {r.variant for r in runs for fold in study.folds if not study.is_trained(r, fold)}
    return [run for run in runs if run.variant not in missing]


def _predicted(runs: Sequence[Run], failures: Mapping[str, str]) -> list[Run]:
    missing = {run.variant for run in runs if run.name in failures}
    return [run for run in runs if run.variant not in missing]
