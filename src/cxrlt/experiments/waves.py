"""What an experiment runs: commands of `cxrlt`, in waves, each of which needs those before it."""

import shlex
from collections.abc import Sequence
from contextlib import suppress

from cxrlt.ensembles.weights import read_weights
from cxrlt.errors import UserError
from cxrlt.experiments.experiment import Experiment, Run
from cxrlt.experiments.workers import Job, run_jobs
from cxrlt.predictions.run_names import is_ensemble
from cxrlt.recipe import save_recipe

Failures = dict[str, str]
"""Label of a job -> why it failed."""


def run_wave(experiment: Experiment, title: str, jobs: Sequence[Job]) -> Failures:
    """Run the jobs, or print them where only that is asked for."""
    if not jobs:
        return {}
    if not experiment.plan.list_jobs:
        return run_jobs(jobs, experiment.n_workers, title)
    print(f"# {title}: {len(jobs)} jobs", *(shlex.join(["cxrlt", *job.arguments]) for job in jobs), sep="\n")
    return {}


def train_wave(experiment: Experiment, title: str, runs: Sequence[Run], folds: Sequence[int]) -> Failures:
    """Train the folds that are not trained yet, and predict the rows that each leaves out."""
    jobs = [train_job(experiment, run, fold) for run, fold in experiment.unfinished(runs, folds)]
    return run_wave(experiment, title, jobs)


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
    source, challenge, workspace = experiment.source, experiment.challenge.name, experiment.source.workspace
    folders = [
        "--challenge",
        challenge,
        "--root",
        str(workspace.root),
        "--cache-dir",
        str(workspace.cache_dir()),
    ]
    folders += [
        "--inputs",
        str(workspace.inputs_dir(challenge)),
        "--images",
        str(workspace.images_dir(challenge)),
    ]
    if words[0] in ("train", "predict"):
        folders += ["--quarantine"] * source.quarantine + ["--allow-missing"] * source.allow_missing
    path = experiment.runs_dir / "logs" / f"{_file_name(experiment, log)}.log"
    return Job(label, (*words, *folders), path)


def _file_name(experiment: Experiment, label: str) -> str:
    return label.replace(f"{experiment.name}/", "").replace("/", "-").replace(" ", "-")
