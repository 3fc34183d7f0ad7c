import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.store import read_predictions
from cxrlt.recipe import save_recipe
from tiny import CLASSES, make_tiny, tiny_recipe

FOLDS = ("0", "1", "2")


def train_with(n_processes: int, source: ImageSource, recipe: Path) -> None:
    launch = [sys.executable, "-m"]
    if n_processes > 1:
        launch += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes), "-m"]
    command = [
        *launch,
        "cxrlt",
        "train",
        str(recipe),
        "--challenge",
        "csv",
        "--root",
        str(source.workspace.root),
    ]
    command += ["--name", f"by-{n_processes}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def oof(tmp_path_factory):
    """Out-of-fold logits of the same recipe, trained by one process and by two."""
    source = make_tiny(tmp_path_factory.mktemp("ranks"))
    recipe = source.workspace.root / "recipe.yaml"
    save_recipe(tiny_recipe(**{"optim.max_batch_per_device": 4}), recipe)
    frames = {}
    for n_processes in (1, 2):
        train_with(n_processes, source, recipe)
        run_dir = source.workspace.run_dir("csv", f"by-{n_processes}")
        frames[n_processes] = [
            read_predictions(run_dir / f"fold{k}" / "oof.parquet", CLASSES)[0] for k in FOLDS
        ]
    return source, frames


def test_two_processes_predict_every_row_once(oof):
    source, frames = oof
    ids = [image_id for frame in frames[2] for image_id in frame.index]
    table = source.challenge.read("train", source.workspace.inputs_dir("csv"))
    assert sorted(ids) == sorted(table.index)
    assert not np.isnan(np.concatenate([frame.to_numpy() for frame in frames[2]])).any()


def test_two_processes_predict_what_one_does(oof):
    _, frames = oof
    for one, two in zip(frames[1], frames[2], strict=True):
        assert list(one.index) == list(two.index)
        assert np.abs(one.to_numpy() - two.to_numpy()).max() < 1e-4
