"""The stage `cxrlt study tricks`: one recipe alone, and with every trick alone on top of it."""

from collections.abc import Callable, Sequence
from functools import partial

from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.calibrate import calibrate
from cxrlt.predictions.predict import predict
from cxrlt.studies.flags import StudyPlan
from cxrlt.studies.plan import Run
from cxrlt.studies.score import read_truths
from cxrlt.studies.train import require_none_failed
from cxrlt.studies.tricks.cost import train_timed
from cxrlt.studies.tricks.derive import derive, is_derived
from cxrlt.studies.tricks.ensembles import ensemble
from cxrlt.studies.tricks.plan import TrickStudy
from cxrlt.studies.tricks.probabilities import is_mapped
from cxrlt.studies.tricks.registry import BASE, TRICKS
from cxrlt.studies.tricks.report import left_out_lines, report
from cxrlt.studies.workers import Task, Workers

Failures = dict[str, str]


def study_tricks(source: ImageSource, plan: StudyPlan) -> str:
    """Train, predict, combine and score what is not done yet, and write the tables. Returns them as Markdown.

    Raises UserError, after everything else is done, for runs that failed.
    """
    study = TrickStudy(source, plan)
    trained = [*study.base_runs, *study.runs(study.of_stage("trained"))]
    second = study.runs(study.of_stage("second stage"))
    print(_opening(study, len(trained) + len(second)), flush=True)
    truths = read_truths(study)
    study.todo([*trained, *second], study.folds)  # what lies there of another study is refused at once
    source.folded(study.present.rows.table, study.base.data.cache_size)  # one process builds the cache
    failures: Failures = {}
    with Workers(study.n_workers) as workers:
        failures |= _train(study, workers, trained, "train")
        _require_base(study, failures)
        failures |= _train(study, workers, second, "train second stages")
        failures |= _predict(study, workers, _fine([*trained, *second], failures))
        _require_base(study, failures)
        failures |= _derive(study, workers)
        failures |= _ensemble(study, workers, _fine([*trained, *second], failures))
    runs = _fine([*study.base_runs, *study.runs(study.tricks)], failures)
    text, unscored = report(study, runs, truths)
    require_none_failed(failures | unscored)
    return text


def _opening(study: TrickStudy, n_runs: int) -> str:
    lines = [
        f"{study.name} on {study.challenge.name}: {', '.join(trick.name for trick in study.tricks)}",
        *left_out_lines(study),
        f"{study.plan.seeds} seeds, {len(study.folds)} folds: {n_runs * len(study.folds)} trainings, "
        f"{study.n_workers} at a time",
    ]
    return "\n".join(lines)


def _train(study: TrickStudy, workers: Workers, runs: Sequence[Run], title: str) -> Failures:
    """Fold by fold and seed by seed, so that what slows the machine for a while slows all tricks alike."""
    tasks = []
    for run, fold in sorted(study.todo(runs, study.folds), key=lambda unit: (unit[1], unit[0].seed)):
        label, plan = f"{run.name} fold {fold}", run.plan(fold, study.plan.force)
        do = partial(train_timed, study.source, plan, study.fold_dir(run, fold))
        tasks.append(Task(label, do, study.log_of(label)))
    return workers.run(tasks, title)


def _predict(study: TrickStudy, workers: Workers, runs: Sequence[Run]) -> Failures:
    tasks = {
        run: partial(predict, study.source, run.name, "oof", force=study.plan.force)
        for run in runs
        if study.plan.force or not _is_predicted(study, run)
    }
    return _run(study, workers, tasks, "predict")


def _derive(study: TrickStudy, workers: Workers) -> Failures:
    """Folders of the tricks that only predict otherwise, and their predictions."""
    base_of = {run.seed: run for run in study.base_runs}
    tasks = {
        run: partial(_predict_derived, study, base_of[run.seed], run)
        for run in study.runs(study.of_stage("prediction"))
        if study.plan.force or not _is_finished(study, base_of[run.seed], run)
    }
    return _run(study, workers, tasks, "predict otherwise")


def _is_finished(study: TrickStudy, base: Run, run: Run) -> bool:
    return is_derived(study, base, run) and _is_predicted(study, run) and is_mapped(study, run)


def _predict_derived(study: TrickStudy, base: Run, run: Run) -> None:
    derive(study, base, run)
    predict(study.source, run.name, "oof")
    if TRICKS[run.variant].probabilities != "raw":
        calibrate(study.challenge, study.source.workspace, run.name)


def _ensemble(study: TrickStudy, workers: Workers, members: Sequence[Run]) -> Failures:
    tasks = {}
    for run in study.runs(study.of_stage("ensemble")):
        alone = TRICKS[run.variant].alone
        own = [m.name for m in members if m.seed == run.seed and (m.variant == BASE or not alone)]
        tasks[run] = partial(ensemble, study, run, own)
    return _run(study, workers, tasks, "ensemble")


def _run(study: TrickStudy, workers: Workers, tasks: dict[Run, Callable[[], object]], title: str) -> Failures:
    return workers.run(
        [Task(run.name, do, study.log_of(f"{title}-{run.name}")) for run, do in tasks.items()], title
    )


def _is_predicted(study: TrickStudy, run: Run) -> bool:
    return all(study.is_predicted(run, fold) for fold in study.folds)


def _fine(runs: Sequence[Run], failures: Failures) -> list[Run]:
    """The runs of the rows that have not failed with any seed."""
    failed = {
        run.variant
        for run in runs
        if any(label == run.name or label.startswith(f"{run.name} fold ") for label in failures)
    }
    return [run for run in runs if run.variant not in failed]


def _require_base(study: TrickStudy, failures: Failures) -> None:
    if len(_fine(study.base_runs, failures)) < study.plan.seeds:
        require_none_failed(failures)
