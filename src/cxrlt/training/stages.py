"""Trainings that come before a fold's own, each from the weights of the one before it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cxrlt.inputs.cache import ImageCache
from cxrlt.recipe import Recipe, StageConfig
from cxrlt.training.checkpoint import leftovers
from cxrlt.training.job import FoldJob, FoldRun, InitFrom, licence_of
from cxrlt.training.run_paths import WEIGHTS
from cxrlt.training.setup import seed_of

WARM_UP_GRID = 4
"""Side that maps are averaged down to for a frozen stage: whole ones of 512 px take a megabyte per image."""


def with_stages(job: FoldJob, cache_at: Callable[[int], ImageCache]) -> FoldJob:
    """`job` with the jobs of its recipe's stages, the first of which starts where `job` would have.

    `cache_at` gives the cache of the fold's images at a side in pixels.
    """
    run, stages = job.run, []
    for number, cfg in enumerate(job.recipe.schedule.stages, start=1):
        recipe = stage_recipe(job.recipe, cfg)
        stage_run = FoldRun(
            run.name,
            f"{run.fold} stage {number}",
            seed_of("stage", run.seed, number),
            recipe,
            run.dir / f"stage{number}",
            run.made_of,
            _weights_of(stages[-1].run) if stages else run.init_from,
        )
        data = replace(job.data, cache=cache_at(recipe.data.cache_size))
        stages.append(FoldJob(job.challenge, stage_run, data))
    if not stages:
        return job
    init_from = replace(_weights_of(stages[-1].run), origin=run.origin)
    return replace(job, run=replace(run, init_from=init_from), stages=tuple(stages))


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
        if recipe.model.reads_map or recipe.uses_fusion:
            values["model"]["grid"] = min(recipe.model.grid or WARM_UP_GRID, WARM_UP_GRID)
    return Recipe.model_validate(values)


def leftover_files(run_dir: Path) -> list[Path]:
    """What the folder of a finished fold does not need, its stages' weights included."""
    stages = list(run_dir.glob("stage*"))
    weights = [stage / WEIGHTS for stage in stages if (stage / WEIGHTS).is_file()]
    return weights + [path for folder in (run_dir, *stages) for path in leftovers(folder)]


def _weights_of(stage: FoldRun) -> InitFrom:
    number = stage.dir.name.removeprefix("stage")
    return InitFrom(stage.dir / WEIGHTS, True, f"stage {number}", licence_of(stage))
