import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cxrlt.artifacts import read_json
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.store import read_predictions
from cxrlt.recipe import save_recipe
from tiny import CLASSES, make_tiny, tiny_recipe

FOLDS = ("0", "1", "2")
TRAIN_LMF = """
import sys
from pathlib import Path
from cxrlt.training.train import TrainPlan, train
from tiny import tiny_recipe, tiny_source

over = {"loss.name": "lmf", "optim.max_batch_per_device": 3, "optim.batch_size": 7}
train(tiny_source(Path(sys.argv[1])), TrainPlan(sys.argv[2], tiny_recipe(**over), folds=(0,)))
"""


def run_with(n_processes: int, *words: str) -> None:
    """Run `python WORDS`, by torchrun if there are to be several processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    command = [sys.executable, *(torchrun if n_processes > 1 else []), *words]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def train_with(n_processes: int, source: ImageSource, recipe: Path, *more: str) -> None:
    words = ["-m", "cxrlt", "train", str(recipe), "--challenge", "csv", "--root", str(source.workspace.root)]
    run_with(n_processes, *words, "--name", f"by-{n_processes}", *more)


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


def test_two_processes_divide_a_weighted_loss_by_the_weights_of_the_whole_batch(tmp_path):
    source = make_tiny(tmp_path, task="single_label")
    script = tmp_path / "train_lmf.py"
    script.write_text(TRAIN_LMF)
    weights, clipped = [], []
    for n_processes in (1, 2):
        run_with(n_processes, str(script), str(tmp_path), f"lmf-by-{n_processes}")
        run_dir = source.workspace.run_dir("csv", f"lmf-by-{n_processes}") / "fold0"
        weights.append(load_file(run_dir / "weights.safetensors"))
        clipped.append(list(pd.read_csv(run_dir / "log.csv")["clipped_share"]))
    assert clipped[0] == clipped[1]
    assert max(clipped[0]) > 0
    for key, value in weights[0].items():
        assert torch.allclose(value, weights[1][key], atol=1e-4), key


def test_two_processes_fuse_the_features_of_a_frozen_backbone_as_one_does(tmp_path):
    source = make_tiny(tmp_path, n_patients=9)
    fusion = {"max_images": 2, "depth": 1, "n_heads": 2, "dim": 16, "drop_rate": 0.0}
    recipe = tmp_path / "recipe.yaml"
    over = {"model.frozen": True, "model.fusion": fusion, "data.size": 64, "optim.batch_size": 4}
    save_recipe(tiny_recipe(**over), recipe)
    frames = []
    for n_processes in (1, 2):
        train_with(n_processes, source, recipe, "--fold", "0")
        path = source.workspace.run_dir("csv", f"by-{n_processes}") / "fold0" / "oof.parquet"
        frames.append(read_predictions(path, CLASSES)[0])
    assert len(frames[0]) == 6
    pd.testing.assert_frame_equal(*frames, atol=1e-4)
    assert len(list(source.workspace.cache_dir().glob("features-*"))) == 1


def test_two_processes_pour_the_soup_of_a_staged_fold_that_one_does(tmp_path):
    source = make_tiny(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    soup = {"kind": "greedy", "snapshots": 2, "inner_share": 0.25}
    over = {
        "optim.max_batch_per_device": 4,
        "soup": soup,
        "schedule.stages": ({"epochs": 1, "frozen": True},),
    }
    save_recipe(tiny_recipe(**over), recipe)
    weights, reports = [], []
    for n_processes in (1, 2):
        train_with(n_processes, source, recipe, "--fold", "0")
        run_dir = source.workspace.run_dir("csv", f"by-{n_processes}") / "fold0"
        weights.append(load_file(run_dir / "weights.safetensors"))
        reports.append(read_json(run_dir / "soup.json", made_by=""))
        assert not list(run_dir.glob("snapshot*"))
    assert reports[0]["taken"] == reports[1]["taken"]
    for key, value in weights[0].items():
        assert torch.allclose(value, weights[1][key], atol=1e-4), key
