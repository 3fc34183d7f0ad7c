"""Every stage of a tiny challenge as a command, and the files that it leaves."""

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
GROWING = (
    "images.npy",
    "thumbs.npy",
    "hashes.npy",
    "sources.npy",
    "features.npy",
    "done.npy",
    "log.csv",
    "best.safetensors",
)
"""Files under their final names that a stage fills or writes more than once."""
PASSING = (
    "checkpoint*",
    "snapshot-*",
    "best.safetensors",
    "stage[0-9]/weights.safetensors",
    ".*.tmp",
    ".*.partial",
    ".building",
    ".*holder.json",
)
"""What must not be left once a stage has ended."""
TIMED = ("images_per_s", "data_wait_share")
CHECKOUT = ("commit", "uncommitted_changes")
"""Fields of environment.json that change when somebody commits while the tests run."""


def command(stage: str, root: Path, images: Path) -> list[str]:
    words = [word.format(root=root) for word in STAGES[stage]]
    return [*words, "--root", str(root), "--images", str(images)]


def images_of(folder: Path) -> Path:
    """The images folder of the run that `undisturbed` makes below `folder`."""
    return folder / "images"


def undisturbed(server: ForkServer, folder: Path) -> dict[str, Path]:
    """The root before each stage, and under "" after the last, of a run that nothing happens to."""
    root, images = folder / "root", images_of(folder)
    make_inputs(root, images)
    before = {}
    for number, stage in enumerate([*STAGES, ""]):
        before[stage] = folder / f"{number}"
        shutil.copytree(root, before[stage])
        if stage:
            ended = server.run(command(stage, root, images), modules=True)
            assert ended.code == 0, ended.output
    return before


def after(before: dict[str, Path], stage: str) -> Path:
    """The root as the undisturbed stage left it."""
    stages = list(before)
    return before[stages[stages.index(stage) + 1]]


def contents(root: Path) -> dict[str, str]:
    """A hash of every file below `root`, folders as well, without what is different in every run.

    seconds.json is only written for a fold that was trained alone and without interruption.
    """
    paths = [path for path in sorted(root.rglob("*")) if path.name != "seconds.json"]
    return {path.relative_to(root).as_posix(): _hash(path) for path in paths}


def left_over(root: Path) -> list[Path]:
    return sorted(path for pattern in PASSING for path in root.rglob(pattern))


def half_written(root: Path, before: Path, after: Path) -> list[str]:
    """Files under their final names that are neither as they were nor as they will be."""
    known = {name: {value} for name, value in contents(before).items()}
    for name, value in contents(after).items():
        known.setdefault(name, set()).add(value)
    passing = {path.relative_to(root).as_posix() for path in left_over(root)}
    return [
        name
        for name, value in contents(root).items()
        if value not in known.get(name, set())
        and not Path(name).name.startswith(GROWING)
        and not any(name == one or name.startswith(f"{one}/") for one in passing)
    ]


def _hash(path: Path) -> str:
    if path.is_dir():
        return "folder"
    data = path.read_bytes()
    if path.name == "environment.json":
        data = json.dumps({k: v for k, v in json.loads(data).items() if k not in CHECKOUT}).encode()
    if path.name == "log.csv":
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        data = json.dumps([{k: v for k, v in row.items() if k not in TIMED} for row in rows]).encode()
    return hashlib.sha256(data).hexdigest()
