"""The stage `cxrlt compare`: train one recipe with every variant, all else equal, and compare the scores."""

from collections.abc import Mapping, Sequence

from cxrlt.calibration.artifact import read_calibration
from cxrlt.errors import UserError
from cxrlt.experiments.experiment import Experiment, Run
from cxrlt.experiments.linked_runs import create_linked_run, is_linked
from cxrlt.experiments.report import write_report
from cxrlt.experiments.score import read_truths
from cxrlt.experiments.tuning import tune
from cxrlt.experiments.variants import OptimSettings, VariantKind
from cxrlt.experiments.waves import Failures, cache_job, ensemble_job, run_job, run_wave, train_wave


def compare(experiment: Experiment) -> str:
    """Tune, train, predict, ensemble and score what is not finished. Return the tables as Markdown.

    With --list-jobs, only write the recipes and print the commands. Raises UserError for failed runs, after
    everything else is done, and before any training if a run of another experiment has the same name.
    """
    print(experiment.start_message(), flush=True)
    if not experiment.needs_tuning:  # refuse runs of another experiment before any training
        for run in _of_kind(experiment.runs({}), "trained", "second stage"):
            for fold in experiment.folds:
                experiment.is_trained(run, fold)
    if experiment.plan.list_jobs:
        run_wave(experiment, "first", [cache_job(experiment)])
        _run(experiment)
        return "# To finish, run the same command without --list-jobs. It uses the results of these jobs."
    truths = read_truths(experiment)
    table, size = experiment.current_data.rows.table, experiment.base.data.cache_size
    experiment.source.load_train_rows(table, size)  # build the cache in one process
    runs, settings, failures = _run(experiment)
    text, unscored = write_report(experiment, runs, truths, settings)
    _require_none_failed(failures | unscored)
    return text


def _run(experiment: Experiment) -> tuple[list[Run], dict[str, OptimSettings], Failures]:
    """Run all waves. Return the runs of variants that succeeded with every seed, settings and failures."""
    settings, failures = tune(experiment) if experiment.needs_tuning else ({}, {})
    runs = experiment.runs(settings)
    if experiment.needs_tuning and experiment.plan.list_jobs and not runs:
        print("# The next trainings depend on the scores of these jobs. Run them, then list the jobs again.")
    failures |= train_wave(experiment, "train", _of_kind(runs, "trained"), experiment.folds)
    _require_reference(experiment, runs, failures)
    second = _of_kind(runs, "second stage")
    failures |= train_wave(experiment, "train second stages", second, experiment.folds)
    trained = _succeeded(_of_kind(runs, "trained", "second stage"), failures)
    if experiment.predicts_train_set:
        failures |= _predict_train_set(experiment, trained)
        _require_reference(experiment, runs, failures)
    failures |= _run_predictions(experiment, runs)
    failures |= _ensemble(experiment, runs, trained)
    return _succeeded(runs, failures), settings, failures


def _predict_train_set(experiment: Experiment, runs: Sequence[Run]) -> Failures:
    jobs = [
        run_job(experiment, "predict", run, "predict", "--split", "train_set")
        for run in runs
        if not experiment.is_predicted(run, experiment.folds, "train_set")
    ]
    return run_wave(experiment, "predict", jobs)


def _run_predictions(experiment: Experiment, runs: Sequence[Run]) -> Failures:
    """Create the folders of the prediction variants, predict and calibrate."""
    title, failures = "predict variants", Failures()
    reference_by_seed = {run.seed: run for run in runs if experiment.is_reference(run)}
    runs = _of_kind(runs, "prediction")
    if runs and experiment.plan.list_jobs:
        print(
            f"# {title}: these runs have no folders yet. The same command without --list-jobs creates them."
        )
    else:
        failures |= _link_runs(experiment, reference_by_seed, runs)
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


def _link_runs(experiment: Experiment, reference_by_seed: Mapping[int, Run], runs: Sequence[Run]) -> Failures:
    """Link the reference's files for every run. Fast enough to need no job."""
    failures = Failures()
    for run in runs:
        base = reference_by_seed[run.seed]
        try:
            if experiment.plan.force or not is_linked(experiment, base, run):
                create_linked_run(experiment, base, run)
        except UserError as error:
            failures[run.name] = str(error)
    return failures


def _is_calibrated(experiment: Experiment, run: Run) -> bool:
    try:
        read_calibration(run.name, experiment.scored_data)
    except UserError:
        return False
    return True


def _ensemble(experiment: Experiment, runs: Sequence[Run], trained: Sequence[Run]) -> Failures:
    jobs, failures = [], Failures()
    for run in _of_kind(runs, "ensemble"):
        only_reference = run.variant.only_reference
        members = [
            member.name
            for member in trained
            if member.seed == run.seed and (experiment.is_reference(member) or not only_reference)
        ]
        if len(members) < 2 and not only_reference:
            failures[run.name] = "nothing to ensemble, as no other training finished."
        else:
            jobs.append(ensemble_job(experiment, run, members))
    return failures | run_wave(experiment, "ensemble", jobs)


def _of_kind(runs: Sequence[Run], *kinds: VariantKind) -> list[Run]:
    return [run for run in runs if run.variant.kind in kinds]


def _succeeded(runs: Sequence[Run], failures: Failures) -> list[Run]:
    """Return the runs of the variants that failed with no seed."""
    failed = {
        run.variant.name
        for run in runs
        if any(label == run.name or label.startswith(f"{run.name} fold ") for label in failures)
    }
    return [run for run in runs if run.variant.name not in failed]


def _require_reference(experiment: Experiment, runs: Sequence[Run], failures: Failures) -> None:
    reference_runs = [run for run in runs if experiment.is_reference(run)]
    if len(_succeeded(reference_runs, failures)) < experiment.plan.seeds:
        _require_none_failed(failures)


def _require_none_failed(failures: Failures) -> None:
    """Raise UserError with the failed jobs and the reasons."""
    if failures:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in failures.items())
        raise UserError(
            f"{len(failures)} of the experiment's jobs failed. {reasons} "
            "To continue, run the same command again."
        )
