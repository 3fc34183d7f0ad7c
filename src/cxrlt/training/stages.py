"""Training stages: each starts from the weights of the previous stage, and the fold from the last stage."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cxrlt.inputs.cache import ImageCache
from cxrlt.recipe import Recipe, StageConfig
from cxrlt.training.checkpoint import intermediate_files
from cxrlt.training.job import FoldJob, FoldRun, InitFrom
from cxrlt.training.run_paths import WEIGHTS
from cxrlt.training.setup import derive_seed

FROZEN_STAGE_GRID = 4
"""Largest side of the feature maps in a frozen stage: the full maps of a 512 px image take about 1 MB."""


def add_stages(job: FoldJob, cache_for_size: Callable[[int], ImageCache]) -> FoldJob:
    """Return `job` with the jobs of its recipe's stages; the first has the job's initial weights.

    `cache_for_size` returns the image cache for a size in pixels.
    """
    run = job.run
    stages: list[FoldJob] = []
    for number, cfg in enumerate(job.recipe.schedule.stages, start=1):
        recipe = create_stage_recipe(job.recipe, cfg)
        stage_run = FoldRun(
            run.name,
            f"{run.fold} stage {number}",
            derive_seed("stage", run.seed, number),
            recipe,
            run.dir / f"stage{number}",
            run.provenance,
            _init_from_stage(stages[-1].run) if stages else run.init_from,
        )
        data = replace(job.data, cache=cache_for_size(recipe.data.cache_size))
        stages.append(FoldJob(job.challenge, stage_run, data))
    if not stages:
        return job
    init_from = replace(_init_from_stage(stages[-1].run), origin=run.origin)
    return replace(job, run=replace(run, init_from=init_from), stages=tuple(stages))


def create_stage_recipe(recipe: Recipe, stage: StageConfig) -> Recipe:
    """Return the recipe of a stage: the run's recipe with the stage's values, without soup or best epoch."""
    values = recipe.model_dump()
    values["schedule"] |= {"epochs": stage.epochs, "stages": ()}
    values["data"]["size"] = stage.size or recipe.data.size
    values["optim"]["lr"] = stage.lr or recipe.optim.lr
    values["soup"]["kind"], values["predict"]["weights"] = "none", "last"
    if stage.frozen:
        values["model"]["frozen"] = True
        values["data"]["mix"] = {}  # features are computed once per image, so they cannot be mixed
        if recipe.model.reads_map or recipe.uses_fusion:
            values["model"]["grid"] = min(recipe.model.grid or FROZEN_STAGE_GRID, FROZEN_STAGE_GRID)
    return Recipe.model_validate(values)


def leftover_files(run_dir: Path) -> list[Path]:
    """Return the files that a finished fold does not need, including the weights of its stages."""
    stages = list(run_dir.glob("stage*"))
    weights = [stage / WEIGHTS for stage in stages if (stage / WEIGHTS).is_file()]
    return weights + [path for folder in (run_dir, *stages) for path in intermediate_files(folder)]


def _init_from_stage(stage: FoldRun) -> InitFrom:
    number = stage.dir.name.removeprefix("stage")
    return InitFrom(stage.dir / WEIGHTS, True, f"stage {number}")
