"""One fold of one run: its recipe, its data and the files that describe it."""

import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import cxrlt
from cxrlt.artifacts import write_artifact
from cxrlt.challenges.base import Challenge
from cxrlt.inputs.cache import ImageCache
from cxrlt.provenance import Provenance
from cxrlt.recipe import Recipe, save_recipe
from cxrlt.system.atomic_files import write_json, write_text
from cxrlt.training.initial_weights import InitialWeights
from cxrlt.training.record import Origin, RunRecord
from cxrlt.training.run_paths import CARD, CONFIG, HOLDOUT, RUN, WEIGHTS

CHANNEL_NAMES = {1: "one grey channel", 3: "three colour channels"}
PACKAGES = ("accelerate", "albumentations", "numpy", "opencv-python-headless", "pandas", "timm", "torch")


@dataclass(frozen=True)
class InitFrom:
    """Initial weights from another run or stage; `same_classes` says whether its head can be loaded too.

    `label` describes the source in messages. `origin` is recorded in run.json, and is None between two stages
    of one training. `classes` are in the order of that run, and `initial_weights` those that it started from.
    """

    weights: Path
    same_classes: bool
    label: str
    origin: Origin | None = None
    classes: tuple[str, ...] = ()
    initial_weights: InitialWeights = field(default_factory=InitialWeights)


@dataclass(frozen=True)
class FoldRun:
    """One fold of the run `name`, or one stage of the fold, in the folder `dir`.

    `provenance` has the digests of everything that its weights depend on.
    """

    name: str
    fold: str
    seed: int
    recipe: Recipe
    dir: Path
    provenance: Provenance
    init_from: InitFrom | None = None
    initial_weights: InitialWeights = field(default_factory=InitialWeights)

    @property
    def origin(self) -> Origin | None:
        """The trained fold that the weights start from, if any."""
        return self.init_from.origin if self.init_from else None


@dataclass(frozen=True)
class FoldData:
    """The rows and images of a fold, the labels in the order of `classes`.

    `table` (index image_id) has the rows of all folds and the class columns; the jobs of a run share it.
    `valid_mask` (n_rows,) marks the validation rows of this fold, none in a refit. `holdout_mask` (n_rows,)
    marks the holdout rows: whole patients that are not used for training or validation.
    `long_tail_mask` (n_rows,) marks the rows that data.long_tail leaves out of training.
    """

    classes: tuple[str, ...]
    table: pd.DataFrame
    valid_mask: np.ndarray
    holdout_mask: np.ndarray
    long_tail_mask: np.ndarray
    cache: ImageCache

    @property
    def train(self) -> pd.DataFrame:
        """The training rows (index image_id)."""
        return self.table[~self.valid_mask & ~self.holdout_mask & ~self.long_tail_mask]

    @property
    def valid(self) -> pd.DataFrame:
        """The validation rows, which are not trained on (index image_id)."""
        return self.table[self.valid_mask]

    @property
    def holdout(self) -> pd.DataFrame:
        """The rows that choose the epoch or the soup (index image_id)."""
        return self.table[self.holdout_mask]

    def targets(self, table: pd.DataFrame) -> np.ndarray:
        """Return the labels of `table`, float32 (n_rows, n_classes), NaN if unknown."""
        return table[list(self.classes)].to_numpy(np.float32)

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of positive training rows per class."""
        return {str(name): int(count) for name, count in self.train[list(self.classes)].sum().items()}


@dataclass(frozen=True)
class FoldJob:
    """One fold to train; its `stages` are trained first, one after the other."""

    challenge: Challenge
    run: FoldRun
    data: FoldData
    stages: tuple["FoldJob", ...] = ()

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run or stage."""
        return self.run.recipe

    @property
    def run_dir(self) -> Path:
        """The folder of the fold or stage."""
        return self.run.dir

    @property
    def is_finished(self) -> bool:
        """Whether the final weights exist."""
        return (self.run_dir / WEIGHTS).is_file()


def write_run_files(job: FoldJob, device: torch.device) -> None:
    """Write config.yaml, run.json, environment.json and card.json before training.

    With a holdout, also write the ids of its rows.
    """
    if len(job.data.holdout):
        ids = "\n".join(["image_id", *job.data.holdout.index])
        write_text(job.run_dir / HOLDOUT, f"{ids}\n")
    save_recipe(job.recipe, job.run_dir / CONFIG)
    write_json(job.run_dir / "environment.json", describe_environment(device))
    write_json(job.run_dir / CARD, _model_card(job))
    write_artifact(
        job.run_dir / RUN, create_run_record(job)
    )  # last: if run.json exists, the other files are complete


def create_run_record(job: FoldJob) -> RunRecord:
    """Return the content of run.json."""
    return RunRecord(
        challenge=job.challenge.name,
        name=job.run.name,
        fold=job.run.fold,
        seed=job.run.seed,
        version=cxrlt.__version__,
        task=job.challenge.task,
        classes=job.data.classes,
        provenance=job.run.provenance,
        started_from=job.run.origin,
        initial_weights=job.run.initial_weights,
    )


def weights_metadata(job: FoldJob) -> dict[str, str]:
    """Return the metadata in the header of weights.safetensors."""
    run = job.run
    values = {"challenge": job.challenge.name, "name": run.name, "fold": run.fold, "seed": str(run.seed)}
    return values | {"rows": run.provenance["rows"], "version": cxrlt.__version__}


def describe_environment(device: torch.device) -> dict[str, object]:
    """Return the versions of code and packages, and the device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    return {
        "version": cxrlt.__version__,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "device": f"{device.type}: {name}",
    }


def _model_card(job: FoldJob) -> dict[str, object]:
    """Return the content of card.json."""
    data, size = job.data, job.recipe.data.size
    return {
        "challenge": job.challenge.name,
        "task": job.challenge.task,
        "classes": list(data.classes),
        "backbone": job.recipe.model.backbone,
        "pretrained_weights_licence": job.run.initial_weights.licence,
        "initial_weights": job.run.initial_weights.model_dump(mode="json"),
        "input": f"{CHANNEL_NAMES[job.challenge.channels]}, {size} x {size}, uint8",
        "loss": job.recipe.loss.name,
        "n_train_images": len(data.train),
        "n_train_patients": int(data.train["patient"].nunique()),
        "n_valid_images": len(data.valid),
        "n_holdout_images": len(data.holdout),
        "train_positives": data.class_counts,
    }


def _git(*arguments: str) -> str | None:
    """Return the output of a git command in the package's folder; None outside a checkout or without git."""
    try:
        folder, command = Path(cxrlt.__file__).parent, ["git", *arguments]
        done = subprocess.run(  # nosec B603  # the user's git, with constant arguments
            command, cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
