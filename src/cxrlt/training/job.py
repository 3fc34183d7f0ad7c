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
from cxrlt.challenges.base import Task
from cxrlt.inputs.cache import ImageCache
from cxrlt.models.pretrained import weights_licence
from cxrlt.provenance import MadeOf
from cxrlt.recipe import Recipe, save_recipe
from cxrlt.system.atomic_files import write_json, write_text
from cxrlt.training.record import Origin, RunRecord
from cxrlt.training.run_paths import CONFIG, INNER, RUN, WEIGHTS

CHANNELS = {1: "one grey channel", 3: "three colour channels"}
PACKAGES = ("accelerate", "albumentations", "numpy", "opencv-python-headless", "pandas", "timm", "torch")


@dataclass(frozen=True)
class Start:
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
class FoldJob:
    """Everything `fit` needs.

    `rows` is the digest of ids and patients trained on. `classes` keep the order that a run began with.
    `table` has the rows of all folds and the class columns; the jobs of a run share it. Of its rows
    `left_out` (n,) are those of this fold, none in a refit, and `judging` (n,) those that judge a soup: whole
    patients that are neither left out nor trained on. `made_of` is what its weights are made of. `stages` are
    trained one after the other before it.
    """

    challenge: str
    name: str
    fold: str
    seed: int
    recipe: Recipe
    classes: tuple[str, ...]
    task: Task
    channels: int
    metric: str
    rows: str
    run_dir: Path
    cache: ImageCache
    table: pd.DataFrame
    left_out: np.ndarray
    judging: np.ndarray
    made_of: MadeOf
    start: Start | None = None
    stages: tuple["FoldJob", ...] = ()
    no_finding: str | None = None

    @property
    def train(self) -> pd.DataFrame:
        """The rows that are trained on."""
        return self.table[~self.left_out & ~self.judging]

    @property
    def valid(self) -> pd.DataFrame:
        """The rows that the fold leaves out."""
        return self.table[self.left_out]

    @property
    def inner(self) -> pd.DataFrame:
        """The rows that judge a soup."""
        return self.table[self.judging]

    def targets(self, table: pd.DataFrame) -> np.ndarray:
        """Labels (n, c) float32, NaN where unknown."""
        return table[list(self.classes)].to_numpy(np.float32)

    @property
    def class_counts(self) -> dict[str, int]:
        """Positives per class among this fold's training rows."""
        return {name: int(count) for name, count in self.train[list(self.classes)].sum().items()}

    @property
    def finished(self) -> bool:
        return (self.run_dir / WEIGHTS).is_file()


def describe_run(job: FoldJob, device: torch.device) -> None:
    """Write config.yaml, run.json, environment.json and card.json into the run's folder, before training.

    With a soup also inner.csv, the ids of the rows that judge it.
    """
    if len(job.inner):
        write_text(job.run_dir / INNER, "\n".join(["image_id", *job.inner.index]) + "\n")
    save_recipe(job.recipe, job.run_dir / CONFIG)
    write_json(job.run_dir / "environment.json", environment(device))
    write_json(job.run_dir / "card.json", _card(job))
    write_model(job.run_dir / RUN, record_of(job))  # last: its presence says the others are whole


def record_of(job: FoldJob) -> RunRecord:
    """What run.json says of the fold."""
    return RunRecord(
        challenge=job.challenge,
        name=job.name,
        fold=job.fold,
        seed=job.seed,
        version=cxrlt.__version__,
        task=job.task,
        classes=job.classes,
        made_of=job.made_of,
        started_from=job.start.origin if job.start else None,
    )


def tags(job: FoldJob) -> dict[str, str]:
    """What travels in the header of the weights."""
    names = ("challenge", "name", "fold", "seed", "rows")
    return {key: str(getattr(job, key)) for key in names} | {"version": cxrlt.__version__}


def licence_of(job: FoldJob) -> str:
    """Licence of the weights that training starts from."""
    return job.start.licence if job.start else weights_licence(job.recipe.model)


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
    return {
        "challenge": job.challenge,
        "task": job.task,
        "classes": list(job.classes),
        "backbone": job.recipe.model.backbone,
        "pretrained_weights_licence": licence_of(job),
        "input": f"{CHANNELS[job.channels]}, {job.recipe.data.size} x {job.recipe.data.size}, uint8",
        "loss": job.recipe.loss.name,
        "n_train_images": len(job.train),
        "n_train_patients": int(job.train["patient"].nunique()),
        "n_valid_images": len(job.valid),
        "n_inner_images": len(job.inner),
        "train_positives": job.class_counts,
    }


def _git(*arguments: str) -> str | None:
    """Output of a git command in the package's folder; None outside a checkout or without git."""
    try:
        folder = Path(cxrlt.__file__).parent
        command = ["git", *arguments]
        done = subprocess.run(  # nosec B603  # the user's git, with words of ours
            command, cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
