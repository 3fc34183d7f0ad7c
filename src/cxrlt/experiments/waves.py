"""What an experiment runs: commands of `cxrlt`, in waves, each of which needs those before it."""

from collections.abc import Sequence
from contextlib import suppress

from cxrlt.ensembles.weights import read_weights
from cxrlt.errors import UserError
from cxrlt.experiments.experiment import Experiment, Run
from cxrlt.predictions.run_names import is_ensemble
from cxrlt.recipe import save_recipe
from cxrlt.system.jobs import Job, run_jobs

Failures = dict[str, str]
"""Label of a job -> why it failed."""
SHARED_PROCESS = 10**9
"""Pixels that the trainings of one process see at least: a minute or more, of which its start takes 5 s."""


def run_wave(
    experiment: Experiment, title: str, jobs: Sequence[Job], per_process: int | None = None
) -> Failures:
    """Run the jobs, as many in a process as there are unless told otherwise; or print them (--list-jobs)."""
    if jobs and experiment.plan.list_jobs:
        print(f"# {title}: {len(jobs)} job{'s' * (len(jobs) > 1)}", *(job.command for job in jobs), sep="\n")
    elif jobs:
        return run_jobs(jobs, experiment.n_workers, title, per_process=per_process or len(jobs))
    return {}


def cache_job(experiment: Experiment) -> Job:
    """Makes what the other jobs then share."""
    source, size = experiment.source, experiment.base.data.cache_size
    return Job("cache", ("cache", source.challenge.name, "--size", str(size), *source.flags()))


def train_wave(experiment: Experiment, title: str, runs: Sequence[Run], folds: Sequence[int]) -> Failures:
    """Train the folds that are not trained yet, and predict the rows that each leaves out."""
    units = experiment.unfinished(runs, folds)
    recipes, n_rows = [run.recipe for run, _ in units], len(experiment.present.rows.table)
    pixels = max((n_rows * cfg.schedule.epochs * cfg.data.size**2 for cfg in recipes), default=1)
    jobs = [train_job(experiment, run, fold) for run, fold in units]
    return run_wave(experiment, title, jobs, max(SHARED_PROCESS // pixels, 1))


def train_job(experiment: Experiment, run: Run, fold: int) -> Job:
    label = f"{run.name} fold {fold}"
    recipe = experiment.runs_dir / "recipes" / f"{_file_name(experiment, run.name)}.yaml"
    save_recipe(run.recipe, recipe)
    words = ["train", str(recipe), "--name", run.name, "--fold", str(fold), "--seed", str(run.seed)]
    return _job(experiment, label, label, [*words, *["--force"] * experiment.plan.force])


def run_job(experiment: Experiment, title: str, run: Run, command: str, *words: str) -> Job:
    return _job(experiment, run.name, f"{title}-{run.name}", [command, run.name, *words])


def ensemble_job(experiment: Experiment, run: Run, members: Sequence[str]) -> Job:
    """One of other members that has the run's name is replaced."""
    words = ["--kind", str(run.variant.ensemble), *["--context"] * run.variant.alone, "--study-mean", "off"]
    again = experiment.plan.force or _has_other_members(experiment, run, members)
    words += ["--force"] * again
    return run_job(experiment, "ensemble", run, "ensemble", "--members", *members, *words)


def _has_other_members(experiment: Experiment, run: Run, members: Sequence[str]) -> bool:
    directory, found = experiment.run_dir(run), {*members}
    with suppress(UserError):  # a damaged one is the job's to report
        if is_ensemble(directory):
            found = set(read_weights(directory, experiment.challenge).members)
    return found != {*members}


def _job(experiment: Experiment, label: str, log: str, words: Sequence[str]) -> Job:
    source = experiment.source
    flags = source.flags() if words[0] in ("train", "predict") else source.folder_flags()
    path = experiment.runs_dir / "logs" / f"{_file_name(experiment, log)}.log"
    return Job(label, (*words, "--challenge", source.challenge.name, *flags), path)


def _file_name(experiment: Experiment, label: str) -> str:
    return label.replace(f"{experiment.name}/", "").replace("/", "-").replace(" ", "-")
