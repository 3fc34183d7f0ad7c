"""The stage `cxrlt compare tricks`: one recipe alone, and with every trick alone on top of it."""

from collections.abc import Callable, Sequence
from functools import partial

from cxrlt.calibration.calibrate import calibrate
from cxrlt.experiments.flags import ExperimentPlan
from cxrlt.experiments.plan import Run
from cxrlt.experiments.report import title_of
from cxrlt.experiments.score import read_truths
from cxrlt.experiments.train import require_none_failed
from cxrlt.experiments.tricks.cost import train_timed
from cxrlt.experiments.tricks.derive import derive, is_derived
from cxrlt.experiments.tricks.ensembles import ensemble
from cxrlt.experiments.tricks.plan import TrickExperiment
from cxrlt.experiments.tricks.probabilities import is_mapped
from cxrlt.experiments.tricks.registry import BASE, TRICKS
from cxrlt.experiments.tricks.report import left_out_lines, report
from cxrlt.experiments.workers import Task, Workers
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.predict import predict

Failures = dict[str, str]


def compare_tricks(source: ImageSource, plan: ExperimentPlan) -> str:
    """Train, predict, combine and score what is not done yet, and write the tables. Returns them as Markdown.

    Raises UserError, after everything else is done, for runs that failed.
    """
    experiment = TrickExperiment(source, plan)
    trained = [*experiment.base_runs, *experiment.runs(experiment.of_stage("trained"))]
    second = experiment.runs(experiment.of_stage("second stage"))
    print(_opening(experiment, len(trained) + len(second)), flush=True)
    truths = read_truths(experiment)
    experiment.todo(
        [*trained, *second], experiment.folds
    )  # what lies there of another experiment is refused at once
    source.folded(
        experiment.present.rows.table, experiment.base.data.cache_size
    )  # one process builds the cache
    failures: Failures = {}
    with Workers(experiment.n_workers) as workers:
        failures |= _train(experiment, workers, trained, "train")
        _require_base(experiment, failures)
        failures |= _train(experiment, workers, second, "train second stages")
        failures |= _predict(experiment, workers, _fine([*trained, *second], failures))
        _require_base(experiment, failures)
        failures |= _derive(experiment, workers)
        failures |= _ensemble(experiment, workers, _fine([*trained, *second], failures))
    runs = _fine([*experiment.base_runs, *experiment.runs(experiment.tricks)], failures)
    text, unscored = report(experiment, runs, truths)
    require_none_failed(failures | unscored)
    return text


def _opening(experiment: TrickExperiment, n_runs: int) -> str:
    lines = [
        f"{title_of(experiment)}: {', '.join(trick.name for trick in experiment.tricks)}",
        *left_out_lines(experiment),
        f"{experiment.plan.seeds} seeds, {len(experiment.folds)} folds: "
        f"{n_runs * len(experiment.folds)} trainings, {experiment.n_workers} at a time",
    ]
    return "\n".join(lines)


def _train(experiment: TrickExperiment, workers: Workers, runs: Sequence[Run], title: str) -> Failures:
    """Fold by fold and seed by seed, so that what slows the machine for a while slows all tricks alike."""
    tasks = []
    for run, fold in sorted(
        experiment.todo(runs, experiment.folds), key=lambda unit: (unit[1], unit[0].seed)
    ):
        label, plan = f"{run.name} fold {fold}", run.plan(fold, experiment.plan.force)
        do = partial(train_timed, experiment.source, plan, experiment.fold_dir(run, fold))
        tasks.append(Task(label, do, experiment.log_of(label)))
    return workers.run(tasks, title)


def _predict(experiment: TrickExperiment, workers: Workers, runs: Sequence[Run]) -> Failures:
    tasks = {
        run: partial(predict, experiment.source, run.name, "oof", force=experiment.plan.force)
        for run in runs
        if experiment.plan.force or not _is_predicted(experiment, run)
    }
    return _run(experiment, workers, tasks, "predict")


def _derive(experiment: TrickExperiment, workers: Workers) -> Failures:
    """Folders of the tricks that only predict otherwise, and their predictions."""
    base_of = {run.seed: run for run in experiment.base_runs}
    tasks = {
        run: partial(_predict_derived, experiment, base_of[run.seed], run)
        for run in experiment.runs(experiment.of_stage("prediction"))
        if experiment.plan.force or not _is_finished(experiment, base_of[run.seed], run)
    }
    return _run(experiment, workers, tasks, "predict otherwise")


def _is_finished(experiment: TrickExperiment, base: Run, run: Run) -> bool:
    return is_derived(experiment, base, run) and _is_predicted(experiment, run) and is_mapped(experiment, run)


def _predict_derived(experiment: TrickExperiment, base: Run, run: Run) -> None:
    derive(experiment, base, run)
    predict(experiment.source, run.name, "oof")
    if TRICKS[run.variant].probabilities != "raw":
        calibrate(experiment.challenge, experiment.source.workspace, run.name)


def _ensemble(experiment: TrickExperiment, workers: Workers, members: Sequence[Run]) -> Failures:
    tasks = {}
    for run in experiment.runs(experiment.of_stage("ensemble")):
        alone = TRICKS[run.variant].alone
        own = [m.name for m in members if m.seed == run.seed and (m.variant == BASE or not alone)]
        tasks[run] = partial(ensemble, experiment, run, own)
    return _run(experiment, workers, tasks, "ensemble")


def _run(
    experiment: TrickExperiment, workers: Workers, tasks: dict[Run, Callable[[], object]], title: str
) -> Failures:
    return workers.run(
        [Task(run.name, do, experiment.log_of(f"{title}-{run.name}")) for run, do in tasks.items()], title
    )


def _is_predicted(experiment: TrickExperiment, run: Run) -> bool:
    return all(experiment.is_predicted(run, fold) for fold in experiment.folds)


def _fine(runs: Sequence[Run], failures: Failures) -> list[Run]:
    """The runs of the rows that have not failed with any seed."""
    failed = {
        run.variant
        for run in runs
        if any(label == run.name or label.startswith(f"{run.name} fold ") for label in failures)
    }
    return [run for run in runs if run.variant not in failed]


def _require_base(experiment: TrickExperiment, failures: Failures) -> None:
    if len(_fine(experiment.base_runs, failures)) < experiment.plan.seeds:
        require_none_failed(failures)
