"""Trainings that come before a fold's own, each from the weights of the one before it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from cxrlt.inputs.cache import ImageCache
from cxrlt.recipe import Recipe, StageConfig
from cxrlt.training.checkpoint import leftovers
from cxrlt.training.job import FoldJob, Start, licence_of
from cxrlt.training.loop import fit
from cxrlt.training.run_paths import WEIGHTS
from cxrlt.training.setup import seed_of

WARM_UP_GRID = 4
"""Side that maps are averaged down to for a frozen stage: whole ones of 512 px take a megabyte per image."""


def with_stages(job: FoldJob, cache_of: Callable[[int], ImageCache]) -> FoldJob:
    """`job` with the jobs of its recipe's stages, the first of which starts where `job` would have.

    `cache_of` gives the cache of the fold's images at a side in pixels.
    """
    stages: list[FoldJob] = []
    for number, cfg in enumerate(job.recipe.schedule.stages, start=1):
        recipe = stage_recipe(job.recipe, cfg)
        stage = replace(
            job,
            fold=f"{job.fold} stage {number}",
            seed=seed_of("stage", job.seed, number),
            recipe=recipe,
            run_dir=job.run_dir / f"stage{number}",
            cache=cache_of(recipe.data.cache_size),
            start=_after(stages[-1]) if stages else job.start,
        )
        stages.append(stage)
    if not stages:
        return job
    origin = job.start.origin if job.start else None
    return replace(job, stages=tuple(stages), start=replace(_after(stages[-1]), origin=origin))


def stage_recipe(recipe: Recipe, stage: StageConfig) -> Recipe:
    """What a stage trains: the recipe with the stage's own values, one model and its last weights."""
    values = recipe.model_dump()
    values["schedule"] |= {"epochs": stage.epochs, "stages": ()}
    values["data"]["size"] = stage.size or recipe.data.size
    values["optim"]["lr"] = stage.lr or recipe.optim.lr
    values["soup"]["kind"], values["predict"]["weights"] = "none", "last"
    if stage.frozen:
        values["model"]["frozen"] = True
        values["data"]["mix"] = {}  # features are of single images as they are
        if recipe.model.reads_map or recipe.fuses:
            values["model"]["grid"] = min(recipe.model.grid or WARM_UP_GRID, WARM_UP_GRID)
    return Recipe.model_validate(values)


def fit_in_stages(job: FoldJob, accelerator: Accelerator) -> None:
    """Train what is not finished of the stages, then the fold itself."""
    for stage in job.stages:
        if not stage.finished:
            stage.run_dir.mkdir(exist_ok=True)
            fit(stage, accelerator)
    fit(job, accelerator)
    if accelerator.is_main_process:
        for path in left_in(job.run_dir):
            path.unlink(missing_ok=True)


def left_in(run_dir: Path) -> list[Path]:
    """What the folder of a finished fold does not need, its stages' weights included."""
    stages = list(run_dir.glob("stage*"))
    weights = [stage / WEIGHTS for stage in stages if (stage / WEIGHTS).is_file()]
    return weights + [path for folder in (run_dir, *stages) for path in leftovers(folder)]


def _after(stage: FoldJob) -> Start:
    number = stage.run_dir.name.removeprefix("stage")
    return Start(stage.run_dir / WEIGHTS, True, f"stage {number}", licence_of(stage))
