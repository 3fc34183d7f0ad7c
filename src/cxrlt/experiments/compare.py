"""The stage `cxrlt compare`: one recipe trained with every variant, all else equal, and how these differ."""

from collections.abc import Mapping, Sequence

from cxrlt.calibration.fitted import read_calibration
from cxrlt.errors import UserError
from cxrlt.experiments.derived import derive, is_derived
from cxrlt.experiments.experiment import Experiment, Run
from cxrlt.experiments.report import report
from cxrlt.experiments.score import read_truths
from cxrlt.experiments.tuning import tune
from cxrlt.experiments.variants import Setting, VariantKind
from cxrlt.experiments.waves import Failures, cache_job, ensemble_job, run_job, run_wave, train_wave


def compare(experiment: Experiment) -> str:
    """Tune, train, predict, combine and score what is not done yet, and write the tables as Markdown.

    Raises UserError, after everything else is done, for runs that failed. With --list-jobs writes recipes,
    prints what there is to do, and does nothing else.
    """
    print(experiment.opening(), flush=True)
    if not experiment.tuned:  # what lies there of another experiment is refused before anything is trained
        for run in _of_kind(experiment.runs({}), "trained", "second stage"):
            for fold in experiment.folds:
                experiment.is_trained(run, fold)
    if experiment.plan.list_jobs:
        run_wave(experiment, "first", [cache_job(experiment)])
        _run(experiment)
        return "# then the same command without --list-jobs, which goes on from what they leave"
    truths = read_truths(experiment)
    table, size = experiment.present.rows.table, experiment.base.data.cache_size
    experiment.source.folded(table, size)  # one process builds the cache
    runs, settings, failures = _run(experiment)
    text, unscored = report(experiment, runs, truths, settings)
    _require_none_failed(failures | unscored)
    return text


def _run(experiment: Experiment) -> tuple[list[Run], dict[str, Setting], Failures]:
    """Wave after wave. Returns the runs of the variants that succeeded with every seed."""
    settings, failures = tune(experiment) if experiment.tuned else ({}, {})
    runs = experiment.runs(settings)
    if experiment.tuned and experiment.plan.list_jobs and not runs:
        print("# the trainings that follow depend on the scores of these: list them again after these")
    failures |= train_wave(experiment, "train", _of_kind(runs, "trained"), experiment.folds)
    _require_reference(experiment, runs, failures)
    second = _of_kind(runs, "second stage")
    failures |= train_wave(experiment, "train second stages", second, experiment.folds)
    trained = _succeeded(_of_kind(runs, "trained", "second stage"), failures)
    if experiment.train_set:
        failures |= _predict_train_set(experiment, trained)
        _require_reference(experiment, runs, failures)
    failures |= _predict_otherwise(experiment, runs)
    failures |= _ensemble(experiment, runs, trained)
    return _succeeded(runs, failures), settings, failures


def _predict_train_set(experiment: Experiment, runs: Sequence[Run]) -> Failures:
    jobs = [
        run_job(experiment, "predict", run, "predict", "--split", "train_set")
        for run in runs
        if not experiment.is_predicted(run, experiment.folds, "train_set")
    ]
    return run_wave(experiment, "predict", jobs)


def _predict_otherwise(experiment: Experiment, runs: Sequence[Run]) -> Failures:
    """Folders of the variants that only predict otherwise, and their predictions and probabilities."""
    title, failures = "predict otherwise", Failures()
    base_of = {run.seed: run for run in runs if experiment.is_reference(run)}
    runs = _of_kind(runs, "prediction")
    if runs and experiment.plan.list_jobs:
        print(f"# {title}: first the same command without --list-jobs makes the folders of these runs")
    else:
        failures |= _derive(experiment, base_of, runs)
    jobs = [
        run_job(experiment, title, run, "predict", "--split", "oof")
        for run in _succeeded(runs, failures)
        if not experiment.is_predicted(run, experiment.folds)
    ]
    failures |= run_wave(experiment, title, jobs)
    jobs = [
        run_job(experiment, "calibrate", run, "calibrate")
        for run in _succeeded(runs, failures)
        if run.variant.probabilities != "raw"
        and (experiment.plan.force or not _is_calibrated(experiment, run))
    ]
    return failures | run_wave(experiment, "calibrate", jobs)


def _derive(experiment: Experiment, base_of: Mapping[int, Run], runs: Sequence[Run]) -> Failures:
    """Here and not as jobs: a few links each."""
    failures = Failures()
    for run in runs:
        base = base_of[run.seed]
        try:
            if experiment.plan.force or not is_derived(experiment, base, run):
                derive(experiment, base, run)
        except UserError as error:
            failures[run.name] = str(error)
    return failures


def _is_calibrated(experiment: Experiment, run: Run) -> bool:
    try:
        read_calibration(run.name, experiment.scored)
    except UserError:
        return False
    return True


def _ensemble(experiment: Experiment, runs: Sequence[Run], trained: Sequence[Run]) -> Failures:
    jobs, failures = [], Failures()
    for run in _of_kind(runs, "ensemble"):
        alone = run.variant.alone
        members = [
            member.name
            for member in trained
            if member.seed == run.seed and (experiment.is_reference(member) or not alone)
        ]
        if len(members) < 2 and not alone:
            failures[run.name] = "there is nothing to combine, as no other training was finished."
        else:
            jobs.append(ensemble_job(experiment, run, members))
    return failures | run_wave(experiment, "ensemble", jobs)


def _of_kind(runs: Sequence[Run], *kinds: VariantKind) -> list[Run]:
    return [run for run in runs if run.variant.kind in kinds]


def _succeeded(runs: Sequence[Run], failures: Failures) -> list[Run]:
    """The runs of the variants that have not failed with any seed."""
    failed = {
        run.variant.name
        for run in runs
        if any(label == run.name or label.startswith(f"{run.name} fold ") for label in failures)
    }
    return [run for run in runs if run.variant.name not in failed]


def _require_reference(experiment: Experiment, runs: Sequence[Run], failures: Failures) -> None:
    own = [run for run in runs if experiment.is_reference(run)]
    if len(_succeeded(own, failures)) < experiment.plan.seeds:
        _require_none_failed(failures)


def _require_none_failed(failures: Failures) -> None:
    """Raises UserError naming what failed and why."""
    if failures:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in failures.items())
        raise UserError(
            f"{len(failures)} of the experiment's jobs failed. {reasons} The same command goes on."
        )
