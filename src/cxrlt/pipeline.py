"""Every stage in order, from radiographs to a valid submission."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge, SplitBy
from cxrlt.ensembles.ensemble import make_ensemble, predict_run
from cxrlt.errors import UserError, listing
from cxrlt.folds.make import make_folds
from cxrlt.inputs.check import check
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.smoke_run import smoke_run_challenge
from cxrlt.inputs.table import NoImagesError
from cxrlt.phantom.demo import PHANTOMS, make_demo
from cxrlt.predictions.predict import predict
from cxrlt.predictions.run_names import require_init_from
from cxrlt.recipe import Recipe, load_recipe, run_name
from cxrlt.reports.run_report import write_report
from cxrlt.reports.score_table import leaderboard_table, score_table
from cxrlt.submissions.evaluate import evaluate, leaderboard
from cxrlt.submissions.submit import submit
from cxrlt.submissions.write import IncompleteError
from cxrlt.system.jobs import Job, run_jobs, visible_gpus
from cxrlt.training.plan import TrainPlan
from cxrlt.training.run_state import write_planned
from cxrlt.training.train import train

ENSEMBLE = "ensemble"
SMOKE_RUN_PATIENTS = 200
"""Patients of a smoke run: our choice, minutes on a CPU."""


@dataclass(frozen=True)
class Plan:
    """What `cxrlt run` does; with `recipes` None it uses the recipes of the challenge."""

    recipes: tuple[str, ...] | None = None
    n_folds: int = 5
    seed: int = 0
    quick: bool = False
    drop_shared_patients: bool = False
    by: SplitBy = "patient"
    allow_leakage: bool = False

    def recipe_names(self, challenge: Challenge) -> dict[str, str]:
        """Return name of run -> name or YAML file of its recipe."""
        return {run_name(recipe): recipe for recipe in self.recipes or challenge.recipes}

    def load_recipes(self, challenge: Challenge) -> dict[str, Recipe]:
        """Return name of run -> its recipe. Raises UserError for a missing or invalid one."""
        return {run: load_recipe(recipe) for run, recipe in self.recipe_names(challenge).items()}


def run(source: ImageSource, plan: Plan) -> None:
    """Run every stage that is not finished. Prints name, result and time of each stage, then the scores.

    Raises UserError for what the user can fix, as each stage does.
    """
    challenge, workspace = source.challenge, source.workspace
    recipes = plan.load_recipes(challenge)
    if challenge.name in PHANTOMS:
        with _stage("demo"):
            print(make_demo(workspace.inputs_dir(challenge.name), challenge=challenge.name))
    with _stage("check"):
        flags = {"allow_missing": source.allow_missing, "drop_shared_patients": plan.drop_shared_patients}
        print(check(challenge, workspace, **flags))
    if plan.quick:
        source, recipes = _smoke_run(source, recipes)
        challenge, workspace = source.challenge, source.workspace
    require_init_runs(source, recipes)
    flags |= {"allow_leakage": plan.allow_leakage}
    if challenge.group_duplicates:  # the folds need the hashes in the cache
        with _stage("cache"):
            _cache(source, recipes)
    with _stage("folds"):
        print(make_folds(challenge, workspace, plan.n_folds, plan.seed, by=plan.by, **flags))
    if not challenge.group_duplicates:
        with _stage("cache"):
            _cache(source, recipes)
    with _stage("train"):
        _train(source, plan, recipes)
    with _stage("ensemble"):
        print(make_ensemble(challenge, workspace, ENSEMBLE, tuple(recipes)))
    with _stage("predict"):
        predicted = [split for split in challenge.splits if split != "train" and _predict(source, split)]
    with _stage("submit"):
        for split in predicted:
            _submit(source, split)
    with _stage("report"):
        report = write_report(source, (*recipes, ENSEMBLE))
        print(report)
    _print_scores(source, predicted, report)


def _smoke_run(source: ImageSource, recipes: dict[str, Recipe]) -> tuple[ImageSource, dict[str, Recipe]]:
    """Return the same challenge with few patients, and its recipes with one epoch, in a separate root."""
    name, workspace = source.challenge.name, source.workspace
    smoke_workspace = Workspace(
        workspace.root / "folds" / "quick",
        workspace.inputs_dir(name),
        workspace.images_dir(name),
        workspace.cache_dir(),
    )
    print(f"quick: {SMOKE_RUN_PATIENTS} patients and one epoch, in {smoke_workspace.root}")
    short = {
        run: recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"epochs": 1})})
        for run, recipe in recipes.items()
    }
    few = smoke_run_challenge(source.challenge, workspace, SMOKE_RUN_PATIENTS)
    return replace(source, challenge=few, workspace=smoke_workspace), short


def require_init_runs(source: ImageSource, recipes: dict[str, Recipe]) -> None:
    """Raise UserError if a recipe starts from a run that is neither trained nor in `recipes`."""
    for recipe in recipes.values():
        start = recipe.model.init_from
        if start and start.removeprefix(f"{source.challenge.name}:") not in recipes:
            require_init_from(source.challenge, source.workspace, start)


def _cache(source: ImageSource, recipes: dict[str, Recipe]) -> None:
    for size in cache_sizes(recipes):
        for split, cache in source.load_all_splits(size).items():
            print(f"{split}: {len(cache.ids):,} images at {size} px ({cache.directory})")


def cache_sizes(recipes: Mapping[str, Recipe]) -> list[int]:
    """Return the sizes in pixels of the image caches that the recipes need."""
    return sorted({recipe.data.cache_size for recipe in recipes.values()})


def _train(source: ImageSource, plan: Plan, recipes: dict[str, Recipe]) -> None:
    """Train one job per GPU if there are several, otherwise fold by fold in this process."""
    n_gpus = len(visible_gpus())
    for name in recipes:  # all, so that cxrlt status shows what is waiting
        write_planned(source.workspace.run_dir(source.challenge.name, name), range(plan.n_folds), plan.seed)
    for wave in waves(source.challenge.name, recipes):
        if n_gpus > 1 and not plan.quick:
            failures = run_jobs(train_jobs(source, plan, wave), n_gpus, "train")
            if failures:
                names = listing(list(failures))
                raise UserError(
                    f"Training failed for {names} (reasons above). To continue, run the same command again."
                )
        else:
            for name in wave:
                train(source, TrainPlan(name, recipes[name], seed=plan.seed))
    for name in recipes:
        predict(source, name, "oof")


def list_jobs(source: ImageSource, plan: Plan) -> str:
    """Return the shell commands of `cxrlt run` up to the trained models, one per line, in order.

    The jobs of a wave need all earlier waves, but not each other. Raises UserError for a recipe that starts
    from a run that is neither trained nor in the list, and with --quick.
    """
    if plan.quick:
        raise UserError(
            "--list-jobs cannot be combined with --quick, which trains in one process and has no jobs."
        )
    name = source.challenge.name
    recipes = plan.load_recipes(source.challenge)
    require_init_runs(source, recipes)
    ordered = waves(name, recipes)
    lines = ["# first, one by one", *(job.command for job in _input_jobs(source, plan, recipes))]
    for number, wave in enumerate(ordered, start=1):
        jobs = train_jobs(source, plan, wave)
        lines += [f"# wave {number} of {len(ordered)}: {len(jobs)} jobs", *(job.command for job in jobs)]
    return "\n".join([*lines, f"# then: cxrlt run {name} with the same flags, which skips finished work"])


def _input_jobs(source: ImageSource, plan: Plan, recipes: dict[str, Recipe]) -> list[Job]:
    """Return the jobs of the stages before training."""
    name, folders = source.challenge.name, source.folder_flags()
    split = ["--n-folds", str(plan.n_folds), "--seed", str(plan.seed)]
    split += ["--allow-missing"] * source.allow_missing
    split += ["--drop-shared-patients"] * plan.drop_shared_patients
    split += ["--by", plan.by] * (plan.by != "patient") + ["--allow-leakage"] * plan.allow_leakage
    demo = [Job("demo", ("demo", name, *folders))] * (name in PHANTOMS)
    folds = [Job("folds", ("folds", name, *split, *folders))]
    caches = [
        Job(f"cache {size}", ("cache", name, "--size", str(size), *source.flags()))
        for size in cache_sizes(recipes)
    ]
    return demo + (caches + folds if source.challenge.group_duplicates else folds + caches)


def train_jobs(source: ImageSource, plan: Plan, names: Sequence[str]) -> list[Job]:
    """Return one job per fold of the runs `names`, ordered by fold."""
    recipe_names = plan.recipe_names(source.challenge)
    flags = ("--challenge", source.challenge.name, "--seed", str(plan.seed), *source.flags())
    return [
        Job(f"{name} fold {fold}", ("train", recipe_names[name], "--fold", str(fold), *flags))
        for fold in range(plan.n_folds)
        for name in names
    ]


def waves(challenge: str, recipes: Mapping[str, Recipe]) -> list[list[str]]:
    """Return the names of the runs in waves: a run comes in a later wave than the run that it starts from.

    Raises UserError for runs that start from each other.
    """
    source_of = {
        name: (recipe.model.init_from or "").removeprefix(f"{challenge}:") for name, recipe in recipes.items()
    }
    ordered: list[list[str]] = []
    while source_of:
        wave = [name for name, origin in source_of.items() if origin not in source_of]
        if not wave:
            raise UserError(f"model.init_from: {listing(list(source_of))} start from each other.")
        ordered.append(wave)
        source_of = {name: origin for name, origin in source_of.items() if name not in wave}
    return ordered


def _predict(source: ImageSource, split: str) -> bool:
    """Predict a split; return whether it has any image. With --allow-missing it may have none."""
    try:
        predict_run(source, ENSEMBLE, split)
    except NoImagesError as error:
        if not source.allow_missing:
            raise
        print(f"{error} Skipping that split (--allow-missing).")
        return False
    return True


def _submit(source: ImageSource, split: str) -> None:
    challenge, workspace = source.challenge, source.workspace
    try:
        print(f"{split}: {submit(challenge, workspace, ENSEMBLE, split)}")
    except IncompleteError as error:
        if not source.allow_missing:
            raise
        print(f"{split}: no submission, as images are missing: {error}")


def _print_scores(source: ImageSource, predicted: list[str], report: Path) -> None:
    """Print the scores and the paths of the results."""
    challenge, workspace = source.challenge, source.workspace
    for split in ("oof", *(split for split in predicted if _has_labels(source, split))):
        print(f"\n{score_table(evaluate(challenge, workspace, ENSEMBLE, split))}")
        print(f"\n{leaderboard_table(leaderboard(challenge, workspace, split))}")
    folder = workspace.submission_dir(challenge.name, ENSEMBLE)
    print(f"\nruns         {workspace.folds_dir(challenge.name)}\nsubmissions  {folder}")
    for path in sorted(folder.glob("*.zip")):
        print(f"             {path}")
    print(f"report       {report}")


def _has_labels(source: ImageSource, split: str) -> bool:
    table = source.challenge.read(split, source.workspace.inputs_dir(source.challenge.name))
    return bool(table[list(source.challenge.classes)].notna().any(axis=None))


@contextmanager
def _stage(name: str) -> Iterator[None]:
    start = time.monotonic()
    print(f"\n== {name}", flush=True)
    yield
    print(f"== {name}: {time.monotonic() - start:.1f} s", flush=True)
