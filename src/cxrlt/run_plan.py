"""`cxrlt run --plan`: what a run would do and cost. It changes nothing, and refuses what cannot work."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import pandas as pd
import psutil
import torch

from cxrlt.errors import UserError
from cxrlt.inputs.cache import cache_path
from cxrlt.inputs.decode import UnreadableImageError, decode_bytes, read_image
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.packed import META
from cxrlt.inputs.table import NoImagesError, load_table
from cxrlt.pipeline import Plan, cache_sizes, require_init_runs, waves
from cxrlt.recipe import Recipe
from cxrlt.system.jobs import format_duration, visible_gpus
from cxrlt.text_table import text_table
from cxrlt.training.cost import TrainingCost, measure_cost
from cxrlt.training.run_paths import WEIGHTS, fold_dir
from cxrlt.training.tta import n_variants

N_SAMPLED = 8
"""Images that are decoded to estimate sizes and times: our choice."""
BYTES_PER_VALUE = 4
"""Weights, moments and logits are float32."""
CHECKPOINT_VALUES = 2 * 4
"""Values per weight in the two checkpoints: the weight, its moving average and Adam's two moments."""


@dataclass(frozen=True)
class Stage:
    """One line of the plan: its jobs, how many are done, the seconds of a pending one, and bytes on disk.

    `memory` is in bytes, of the device, or of the process without a GPU; 0 if it was not measured.
    """

    name: str
    n_jobs: int
    n_done: int
    job_seconds: float
    disk: int
    memory: int = 0

    @property
    def seconds(self) -> float:
        """The seconds of all pending jobs, one after the other."""
        return (self.n_jobs - self.n_done) * self.job_seconds


@dataclass(frozen=True)
class RunPlan:
    """The plan of `cxrlt run` for one challenge."""

    source: ImageSource
    plan: Plan

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The recipes by the name of their run, in the order of training."""
        recipes = self.plan.load_recipes(self.source.challenge)
        require_init_runs(self.source, recipes)
        return {name: recipes[name] for wave in waves(self.source.challenge.name, recipes) for name in wave}

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The rows of every split whose image exists; with --allow-missing a split may have none."""
        found = {}
        for split in self.source.challenge.splits:
            flags = {"allow_missing": self.source.allow_missing}
            flags |= {"drop_shared_patients": self.plan.drop_shared_patients and split == "train"}
            try:
                found[split] = load_table(self.source.challenge, split, self.source.workspace, **flags)
            except NoImagesError:
                if not self.source.allow_missing or split == "train":
                    raise
        return found

    @property
    def n_parallel(self) -> int:
        """Number of trainings at the same time."""
        return max(len(visible_gpus()), 1)

    def stages(self) -> Iterator[Stage]:
        """Yield the stages in their order; every recipe is measured."""
        for size in cache_sizes(self.recipes):
            yield self._cache_stage(size)
        costs = {name: self._measure(name) for name in self.recipes}
        for name, cost in costs.items():
            yield self._train_stage(name, cost)
        for name, cost in costs.items():
            yield self._predict_stage(name, cost)

    def _measure(self, name: str) -> TrainingCost:
        print(f"measuring {name} …", flush=True)
        return measure_cost(self.source.challenge, self.recipes[name], self.tables["train"])

    def _cache_stage(self, size: int) -> Stage:
        pending = [
            table
            for split, table in self.tables.items()
            if not (self._cache_dir(split, table, size) / META).is_file()
        ]
        n_images = sum(map(len, pending))
        seconds = n_images * self._decode_seconds(size) / (psutil.cpu_count() or 1) if pending else 0.0
        disk, done = n_images * size**2 * self.source.challenge.channels, len(self.tables) - len(pending)
        return Stage(f"cache, {size} px", len(self.tables), done, seconds / max(len(pending), 1), disk)

    def _cache_dir(self, split: str, table: pd.DataFrame, size: int) -> Path:
        challenge, workspace = self.source.challenge, self.source.workspace
        files, images = table["file"].sort_index(), workspace.images_dir(challenge.name)
        return cache_path(
            files, size, workspace.cache_dir(), challenge.name, split, images, challenge.channels
        )

    def sampled_files(self) -> list[Path]:
        """Return files of training images, evenly spaced in the table."""
        files = self.tables["train"]["file"]
        return [Path(file) for file in files.iloc[:: max(len(files) // N_SAMPLED, 1)][:N_SAMPLED]]

    def _decode_seconds(self, size: int) -> float:
        """Return the seconds that one core needs for one image."""
        cv2.setNumThreads(0)
        start, files = time.perf_counter(), self.sampled_files()
        for file in files:
            try:
                decode_bytes(read_image(file), file, size, self.source.challenge.channels)
            except UnreadableImageError:  # cxrlt check and the cache report it
                continue
        return (time.perf_counter() - start) / len(files)

    def _train_stage(self, name: str, cost: TrainingCost) -> Stage:
        recipe, n_folds = self.recipes[name], self.plan.n_folds
        n_rows, n_left_out = len(self.tables["train"]), len(self.tables["train"]) / n_folds
        epochs = recipe.schedule.epochs + sum(
            stage.epochs * ((stage.size or recipe.data.size) / recipe.data.size) ** 2
            for stage in recipe.schedule.stages
        )
        validation = cost.predict_seconds / n_variants(recipe.predict.tta)
        seconds = epochs * ((n_rows - n_left_out) * cost.train_seconds + n_left_out * validation)
        seconds += n_rows * cost.features_seconds / n_folds + n_left_out * cost.predict_seconds
        run_dir = self.source.workspace.run_dir(self.source.challenge.name, name)
        done = sum((fold_dir(run_dir, fold) / WEIGHTS).is_file() for fold in range(n_folds))
        n_pending = n_folds - done
        n_values = (n_pending + min(self.n_parallel, n_pending) * CHECKPOINT_VALUES) * cost.n_parameters
        return Stage(f"train {name}", n_folds, done, seconds, n_values * BYTES_PER_VALUE, cost.memory_bytes)

    def _predict_stage(self, name: str, cost: TrainingCost) -> Stage:
        n_folds, n_classes = self.plan.n_folds, len(self.source.challenge.classes)
        n_rows = sum(len(table) for split, table in self.tables.items() if split != "train")
        run_dir = self.source.workspace.run_dir(self.source.challenge.name, name)
        splits = [split for split in self.tables if split != "train"]
        done = sum(
            all((fold_dir(run_dir, fold) / f"{split}.parquet").is_file() for split in splits)
            for fold in range(n_folds)
        )
        disk = (n_folds - done) * n_rows * n_classes * BYTES_PER_VALUE
        return Stage(f"predict {name}", n_folds, done, n_rows * cost.predict_seconds, disk)

    def require_possible(self, stages: list[Stage]) -> None:
        """Raise UserError with everything that is too large for this machine."""
        cache_disk = sum(stage.disk for stage in stages if stage.name.startswith("cache"))
        run_disk = sum(stage.disk for stage in stages) - cache_disk
        problems = []
        workspace = self.source.workspace
        needed: dict[Path, int] = {}
        for folder, n_bytes in ((workspace.cache_dir(), cache_disk), (workspace.root, run_disk)):
            existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
            needed[existing] = needed.get(existing, 0) + n_bytes
        for folder, n_bytes in needed.items():
            free = shutil.disk_usage(folder).free
            if n_bytes > free:
                problems.append(f"{folder} needs {format_bytes(n_bytes)} and has {format_bytes(free)} free")
        for stage in stages:
            if stage.memory > device_memory():
                available = format_bytes(device_memory())
                problems.append(f"{stage.name} needs {format_bytes(stage.memory)} of memory of {available}")
        if problems:
            raise UserError(
                f"this run is not possible on this machine: {'; '.join(problems)}. Choose other --recipes, "
                "a smaller data.size or optim.max_batch_per_device, or another disk (--root, --cache-dir)."
            )


def device_memory() -> int:
    """Return the bytes of memory of the first GPU, or of this machine without one."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return psutil.virtual_memory().total


def format_bytes(n_bytes: float) -> str:
    """Return a number of bytes as a text such as "1.4 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes / 1e3:,.0f} kB"


def describe_plan(source: ImageSource, plan: Plan) -> str:
    """Return the plan of `cxrlt run` as text, after measuring every recipe.

    Raises UserError if a recipe does not fit the challenge, or if memory or disk are too small.
    """
    if plan.quick:
        raise UserError("--plan cannot be combined with --quick, which takes minutes: run it.")
    run_plan = RunPlan(source, plan)
    images = ", ".join(f"{split} {len(table):,}" for split, table in run_plan.tables.items())
    stages = list(run_plan.stages())
    n_parallel = run_plan.n_parallel
    rows = [
        [
            stage.name,
            f"{stage.n_done} of {stage.n_jobs}",
            format_duration(stage.job_seconds),
            format_duration(stage.seconds / (n_parallel if stage.name.startswith("train") else 1)),
            format_bytes(stage.disk),
            format_bytes(stage.memory) if stage.memory else "",
        ]
        for stage in stages
    ]
    total = sum(stage.seconds / (n_parallel if stage.name.startswith("train") else 1) for stage in stages)
    headings = ["stage, in this order", "done", "each", "still", "disk", "memory"]
    gpus = visible_gpus()
    device = f"{len(gpus)} GPU{'s' * (len(gpus) != 1)}" if gpus else f"no GPU, {psutil.cpu_count()} cores"
    run_plan.require_possible(stages)
    return "\n".join(
        [
            f"{source.challenge.name}: {images} images; {_image_size(run_plan)}",
            f"{device}, {format_bytes(device_memory())} of memory; {n_parallel} training"
            f"{'s' * (n_parallel > 1)} at a time",
            "",
            text_table(headings, rows, n_text=2),
            "",
            f"about {format_duration(total)} in all, and "
            f"{format_bytes(sum(stage.disk for stage in stages))} of disk. Nothing was changed.",
            "These are estimates from three epochs over a few noise images with each recipe on this machine, "
            "and from decoding a few images. Folds, ensemble, calibration and submission files take minutes "
            "and are not included; neither is the download of pretrained weights.",
        ]
    )


def _image_size(run_plan: RunPlan) -> str:
    """Return the median size of the sampled images."""
    flag = cv2.IMREAD_UNCHANGED
    images = [cv2.imread(str(file), flag) for file in run_plan.sampled_files()]
    sizes = sorted(image.shape[:2][::-1] for image in images if image is not None)
    if not sizes:
        return "no sampled image can be read: see cxrlt check"
    width, height = sizes[len(sizes) // 2]
    return f"about {width} x {height} px (median of {len(sizes)} files)"
