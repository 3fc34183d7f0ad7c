"""What an experiment runs: commands of `cxrlt`, in waves, each of which needs those before it."""

import shlex
from collections.abc import Collection, Sequence
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
    return run_wave(
        experiment,
        title,
        [train_job(experiment, run, fold) for run, fold in experiment.unfinished(runs, folds)],
    )


def train_job(experiment: Experiment, run: Run, fold: int) -> Job:
    label = f"{run.name} fold {fold}"
    recipe = experiment.runs_dir / "recipes" / f"{_file_name(experiment, run.name)}.yaml"
    save_recipe(run.recipe, recipe)
    words = ["train", str(recipe), "--name", run.name, "--fold", str(fold), "--seed", str(run.seed)]
    return _job(experiment, label, label, [*words, *["--force"] * experiment.plan.force])


def predict_job(experiment: Experiment, title: str, run: Run, split: str) -> Job:
    return _job(experiment, run.name, f"{title}-{run.name}", ["predict", run.name, "--split", split])


def calibrate_job(experiment: Experiment, title: str, run: Run) -> Job:
    return _job(experiment, run.name, f"{title}-{run.name}", ["calibrate", run.name], images=False)


def ensemble_job(experiment: Experiment, title: str, run: Run, members: Sequence[str]) -> Job:
    """One of other members that has the run's name is replaced."""
    alone, kind = run.variant.alone, run.variant.ensemble
    words = ["ensemble", run.name, "--members", *members, "--kind", str(kind), *["--context"] * alone]
    words += ["--study-mean", "off"]
    again = experiment.plan.force or _has_other_members(experiment, run, members)
    return _job(experiment, run.name, f"{title}-{run.name}", [*words, *["--force"] * again], images=False)


def _has_other_members(experiment: Experiment, run: Run, members: Collection[str]) -> bool:
    directory = experiment.run_dir(run)
    with suppress(UserError):  # a damaged one is the job's to report
        return is_ensemble(directory) and set(read_weights(directory, experiment.challenge).members) != {
            *members
        }
    return False


def _job(experiment: Experiment, label: str, log: str, words: Sequence[str], *, images: bool = True) -> Job:
    source, challenge = experiment.source, experiment.challenge.name
    workspace = source.workspace
    folders = ["--challenge", challenge, "--root", str(workspace.root)]
    folders += [
        "--inputs",
        str(workspace.inputs_dir(challenge)),
        "--images",
        str(workspace.images_dir(challenge)),
    ]
    folders += ["--cache-dir", str(workspace.cache_dir())]
    if images:
        folders += ["--quarantine"] * source.quarantine + ["--allow-missing"] * source.allow_missing
    path = experiment.runs_dir / "logs" / f"{_file_name(experiment, log)}.log"
    return Job(label, (*words, *folders), path)


def _file_name(experiment: Experiment, label: str) -> str:
    return label.replace(f"{experiment.name}/", "").replace("/", "-").replace(" ", "-")
