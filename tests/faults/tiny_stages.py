"""Every stage of a tiny challenge as a command, and the files that it writes."""

import csv
import hashlib
import io
import json
import shutil
from pathlib import Path

from fault_client import ForkServer

from tiny import make_inputs

CSV = ["--challenge", "csv"]
STAGES = {
    "demo": ["demo", "--patients", "3"],
    "folds": ["folds", "csv", "--n-folds", "2"],
    "cache": ["cache", "csv", "--size", "32"],
    "train-plain": ["train", "{root}/plain.yaml", *CSV, "--name", "plain"],
    "train-souped": ["train", "{root}/souped.yaml", *CSV, "--name", "souped"],
    "predict-plain": ["predict", "plain", *CSV, "--split", "test"],
    "predict-souped": ["predict", "souped", *CSV, "--split", "test"],
    "predict-oof": ["predict", "souped", *CSV, "--split", "oof", "--force"],
    "ensemble": ["ensemble", "ensemble", "--members", "plain", "souped", *CSV],
    "calibrate": ["calibrate", "ensemble", *CSV],
    "submit": ["submit", "ensemble", *CSV, "--probabilities", "calibrated"],
}
INCREMENTAL_FILES = (
    "images.npy",
    "thumbs.npy",
    "hashes.npy",
    "sources.npy",
    "features.npy",
    "done.npy",
    "log.csv",
    "best.safetensors",
)
"""Final files that a stage fills in steps or writes several times."""
TEMPORARY_FILES = (
    "checkpoint*",
    "snapshot-*",
    "best.safetensors",
    "stage[0-9]/weights.safetensors",
    ".*.tmp",
    ".*.partial",
    ".staging",
    ".*holder.json",
    "failed.json",
)
"""Temporary files that must not exist after a stage."""
TIMING_COLUMNS = ("images_per_s", "data_wait_share")
GIT_FIELDS = ("commit", "uncommitted_changes")
"""Fields of environment.json that change when somebody commits while the tests run."""


def command(stage: str, root: Path, images: Path) -> list[str]:
    words = [word.format(root=root) for word in STAGES[stage]]
    return [*words, "--root", str(root), "--images", str(images)]


def images_folder(folder: Path) -> Path:
    """Return the images folder of `run_all_stages(server, folder)`."""
    return folder / "images"


def run_all_stages(server: ForkServer, folder: Path) -> dict[str, Path]:
    """Run all stages. Return copies of the root before each stage, and after the last one as ""."""
    root, images = folder / "root", images_folder(folder)
    make_inputs(root, images)
    before = {}
    for number, stage in enumerate([*STAGES, ""]):
        before[stage] = folder / f"{number}"
        shutil.copytree(root, before[stage])
        if stage:
            ended = server.run(command(stage, root, images), modules=True)
            assert ended.code == 0, ended.output
    return before


def root_after(before: dict[str, Path], stage: str) -> Path:
    """Return the root after a stage of the undisturbed run."""
    stages = list(before)
    return before[stages[stages.index(stage) + 1]]


def file_hashes(root: Path) -> dict[str, str]:
    """Return a hash of every file and folder below `root`, without content that differs in every run.

    seconds.json is only written for a fold that was trained without another job and without interruption.
    """
    paths = [path for path in sorted(root.rglob("*")) if path.name != "seconds.json"]
    return {path.relative_to(root).as_posix(): _hash(path) for path in paths}


def leftover_files(root: Path) -> list[Path]:
    return sorted(path for pattern in TEMPORARY_FILES for path in root.rglob(pattern))


def partial_files(root: Path, before: Path, finished: Path) -> list[str]:
    """Return final files whose content is neither the old nor the new one."""
    known = {name: {value} for name, value in file_hashes(before).items()}
    for name, value in file_hashes(finished).items():
        known.setdefault(name, set()).add(value)
    temporary = {path.relative_to(root).as_posix() for path in leftover_files(root)}
    return [
        name
        for name, value in file_hashes(root).items()
        if value not in known.get(name, set())
        and not Path(name).name.startswith(INCREMENTAL_FILES)
        and not any(name == one or name.startswith(f"{one}/") for one in temporary)
    ]


def _hash(path: Path) -> str:
    if path.is_dir():
        return "folder"
    data = path.read_bytes()
    if path.name == "environment.json":
        data = json.dumps({k: v for k, v in json.loads(data).items() if k not in GIT_FIELDS}).encode()
    if path.name == "log.csv":
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        data = json.dumps(
            [{k: v for k, v in row.items() if k not in TIMING_COLUMNS} for row in rows]
        ).encode()
    return hashlib.sha256(data).hexdigest()
