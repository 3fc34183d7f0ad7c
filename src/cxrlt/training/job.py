"""One fold of one run: what it is, what it trains on, and what is said about it beside its weights."""

import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import cxrlt
from cxrlt.artifacts import write_model
from cxrlt.challenges.base import Challenge
from cxrlt.inputs.cache import ImageCache
from cxrlt.models.pretrained import weights_licence
from cxrlt.provenance import MadeOf
from cxrlt.recipe import Recipe, save_recipe
from cxrlt.system.atomic_files import write_json, write_text
from cxrlt.training.record import Origin, RunRecord
from cxrlt.training.run_paths import CONFIG, RUN, SOUP_HOLDOUT, WEIGHTS

CHANNELS = {1: "one grey channel", 3: "three colour channels"}
PACKAGES = ("accelerate", "albumentations", "numpy", "opencv-python-headless", "pandas", "timm", "torch")


@dataclass(frozen=True)
class InitFrom:
    """Weights that training starts from instead of timm's: a file, and whether its classes are this fold's.

    `label` says in words where they come from. `origin` is what run.json records of the run they come from;
    None between two stages of one training. `classes` are in the order of that run.
    """

    weights: Path
    same_classes: bool
    label: str
    licence: str = ""
    origin: Origin | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoldRun:
    """Which training this is: one fold of the run `name`, or a stage of it, in the folder `dir`.

    `made_of` are the digests of what its weights are made of.
    """

    name: str
    fold: str
    seed: int
    recipe: Recipe
    dir: Path
    made_of: MadeOf
    init_from: InitFrom | None = None

    @property
    def origin(self) -> Origin | None:
        """The run of which it takes the first weights."""
        return self.init_from.origin if self.init_from else None


@dataclass(frozen=True)
class FoldData:
    """The rows and images of a fold, the labels in the order of `classes`.

    `table` has the rows of all folds and the class columns; the jobs of a run share it. Of its rows
    `left_out` (n,) are those of this fold, none in a refit, and `held_for_soup` (n,) those that judge a soup:
    whole patients that are neither left out nor trained on.
    """

    classes: tuple[str, ...]
    table: pd.DataFrame
    left_out: np.ndarray
    held_for_soup: np.ndarray
    cache: ImageCache

    @property
    def train(self) -> pd.DataFrame:
        """The rows that are trained on."""
        return self.table[~self.left_out & ~self.held_for_soup]

    @property
    def valid(self) -> pd.DataFrame:
        """The rows that the fold leaves out."""
        return self.table[self.left_out]

    @property
    def soup_holdout(self) -> pd.DataFrame:
        """The rows that judge a soup."""
        return self.table[self.held_for_soup]

    def targets(self, table: pd.DataFrame) -> np.ndarray:
        """Labels (n, c) float32, NaN where unknown."""
        return table[list(self.classes)].to_numpy(np.float32)

    @property
    def class_counts(self) -> dict[str, int]:
        """Positives per class among this fold's training rows."""
        return {name: int(count) for name, count in self.train[list(self.classes)].sum().items()}


@dataclass(frozen=True)
class FoldJob:
    """One fold to train, after its `stages`, which are trained one after the other."""

    challenge: Challenge
    run: FoldRun
    data: FoldData
    stages: tuple["FoldJob", ...] = ()

    @property
    def recipe(self) -> Recipe:
        return self.run.recipe

    @property
    def run_dir(self) -> Path:
        return self.run.dir

    @property
    def finished(self) -> bool:
        return (self.run_dir / WEIGHTS).is_file()


def describe_run(job: FoldJob, device: torch.device) -> None:
    """Write config.yaml, run.json, environment.json and card.json into the run's folder, before training.

    With a soup also the ids of the rows that judge it.
    """
    if len(job.data.soup_holdout):
        ids = "\n".join(["image_id", *job.data.soup_holdout.index])
        write_text(job.run_dir / SOUP_HOLDOUT, f"{ids}\n")
    save_recipe(job.recipe, job.run_dir / CONFIG)
    write_json(job.run_dir / "environment.json", environment(device))
    write_json(job.run_dir / "card.json", _card(job))
    write_model(job.run_dir / RUN, record_of(job))  # last: its presence says the others are whole


def record_of(job: FoldJob) -> RunRecord:
    """What run.json says of the fold."""
    return RunRecord(
        challenge=job.challenge.name,
        name=job.run.name,
        fold=job.run.fold,
        seed=job.run.seed,
        version=cxrlt.__version__,
        task=job.challenge.task,
        classes=job.data.classes,
        made_of=job.run.made_of,
        started_from=job.run.origin,
    )


def tags(job: FoldJob) -> dict[str, str]:
    """What travels in the header of the weights."""
    run = job.run
    values = {"challenge": job.challenge.name, "name": run.name, "fold": run.fold, "seed": str(run.seed)}
    return values | {"rows": run.made_of["rows"], "version": cxrlt.__version__}


def licence_of(run: FoldRun) -> str:
    """Licence of the weights that training starts from."""
    return run.init_from.licence if run.init_from else weights_licence(run.recipe.model)


def environment(device: torch.device) -> dict[str, object]:
    """What a run was computed with: code, packages, device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    return {
        "version": cxrlt.__version__,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "device": f"{device.type}: {name}",
    }


def _card(job: FoldJob) -> dict[str, object]:
    """Facts for a model card."""
    data, size = job.data, job.recipe.data.size
    return {
        "challenge": job.challenge.name,
        "task": job.challenge.task,
        "classes": list(data.classes),
        "backbone": job.recipe.model.backbone,
        "pretrained_weights_licence": licence_of(job.run),
        "input": f"{CHANNELS[job.challenge.channels]}, {size} x {size}, uint8",
        "loss": job.recipe.loss.name,
        "n_train_images": len(data.train),
        "n_train_patients": int(data.train["patient"].nunique()),
        "n_valid_images": len(data.valid),
        "n_soup_holdout_images": len(data.soup_holdout),
        "train_positives": data.class_counts,
    }


def _git(*arguments: str) -> str | None:
    """Output of a git command in the package's folder; None outside a checkout or without git."""
    try:
        folder, command = Path(cxrlt.__file__).parent, ["git", *arguments]
        done = subprocess.run(  # nosec B603  # the user's git, with words of ours
            command, cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
