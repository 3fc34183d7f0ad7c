"""The jobs of an experiment: `cxrlt` commands in waves. Each wave needs the results of the previous ones."""

from collections.abc import Sequence
from contextlib import suppress

from cxrlt.ensembles.weights import read_weights
from cxrlt.errors import UserError
from cxrlt.experiments.experiment import Experiment, Run
from cxrlt.predictions.run_names import is_ensemble
from cxrlt.recipe import save_recipe
from cxrlt.system.jobs import Job, run_jobs
from cxrlt.training.run_state import write_planned

Failures = dict[str, str]
"""Label of a job -> why it failed."""
MIN_PIXELS_PER_PROCESS = 10**9
"""Small trainings share a process of at least this many pixels: over a minute, as its start takes 5 s."""


def run_wave(
    experiment: Experiment, title: str, jobs: Sequence[Job], per_process: int | None = None
) -> Failures:
    """Run the jobs, `per_process` in each process (default: all in one), or print them with --list-jobs."""
    if jobs and experiment.plan.list_jobs:
        print(f"# {title}: {len(jobs)} job{'s' * (len(jobs) > 1)}", *(job.command for job in jobs), sep="\n")
    elif jobs:
        return run_jobs(jobs, experiment.n_workers, title, per_process=per_process or len(jobs))
    return {}


def cache_job(experiment: Experiment) -> Job:
    """Return the job that builds the image cache for the other jobs."""
    source, size = experiment.source, experiment.base.data.cache_size
    return Job("cache", ("cache", source.challenge.name, "--size", str(size), *source.flags()))


def train_wave(experiment: Experiment, title: str, runs: Sequence[Run], folds: Sequence[int]) -> Failures:
    """Train the folds that are not finished, and predict their out-of-fold rows."""
    unfinished = experiment.unfinished_folds(runs, folds)
    for run, fold in unfinished:
        write_planned(experiment.run_dir(run), [fold], run.seed)
    recipes, n_rows = [run.recipe for run, _ in unfinished], len(experiment.current_data.rows.table)
    pixels = max((n_rows * cfg.schedule.epochs * cfg.data.size**2 for cfg in recipes), default=1)
    jobs = [train_job(experiment, run, fold) for run, fold in unfinished]
    return run_wave(experiment, title, jobs, max(MIN_PIXELS_PER_PROCESS // pixels, 1))


def train_job(experiment: Experiment, run: Run, fold: int) -> Job:
    """Write the run's recipe and return the job that trains one fold."""
    label = f"{run.name} fold {fold}"
    recipe = experiment.runs_dir / "recipes" / f"{_file_name(experiment, run.name)}.yaml"
    save_recipe(run.recipe, recipe)
    arguments = ["train", str(recipe), "--name", run.name, "--fold", str(fold), "--seed", str(run.seed)]
    return _job(experiment, label, label, [*arguments, *["--force"] * experiment.plan.force])


def run_job(experiment: Experiment, title: str, run: Run, command: str, *arguments: str) -> Job:
    """Return the job that runs one `cxrlt` command on a run."""
    return _job(experiment, run.name, f"{title}-{run.name}", [command, run.name, *arguments])


def ensemble_job(experiment: Experiment, run: Run, members: Sequence[str]) -> Job:
    """Return the job that builds the run's ensemble. It replaces an ensemble of other members."""
    arguments = [
        "--kind",
        str(run.variant.ensemble),
        *["--context"] * run.variant.only_reference,
        "--study-mean",
        "off",
    ]
    needs_force = experiment.plan.force or _has_other_members(experiment, run, members)
    arguments += ["--force"] * needs_force
    return run_job(experiment, "ensemble", run, "ensemble", "--members", *members, *arguments)


def _has_other_members(experiment: Experiment, run: Run, members: Sequence[str]) -> bool:
    directory, existing = experiment.run_dir(run), {*members}
    with suppress(UserError):  # the job reports a damaged ensemble
        if is_ensemble(directory):
            existing = set(read_weights(directory, experiment.challenge).members)
    return existing != {*members}


def _job(experiment: Experiment, label: str, log: str, arguments: Sequence[str]) -> Job:
    source = experiment.source
    flags = source.flags() if arguments[0] in ("train", "predict") else source.folder_flags()
    path = experiment.runs_dir / "logs" / f"{_file_name(experiment, log)}.log"
    return Job(label, (*arguments, "--challenge", source.challenge.name, *flags), path)


def _file_name(experiment: Experiment, label: str) -> str:
    return label.replace(f"{experiment.name}/", "").replace("/", "-").replace(" ", "-")
