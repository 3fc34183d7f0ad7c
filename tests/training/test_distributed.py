import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cxrlt.artifacts import read_json
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.predict import predict
from cxrlt.predictions.store import read_predictions
from cxrlt.training.train import TrainPlan, train
from tiny import CLASSES, make_tiny, tiny_recipe

pytestmark = pytest.mark.slow

FOLDS = ("0", "1", "2")
TRAIN = """
import sys
from pathlib import Path
from test_distributed import train_all
from tiny import tiny_source

train_all({folder.name: tiny_source(folder) for folder in sorted(Path(sys.argv[1]).iterdir())}, "by-2")
"""
FUSION = {"max_images": 2, "depth": 1, "n_heads": 2, "dim": 16, "drop_rate": 0.0}
RECIPES = {
    "divided": {"optim.max_batch_per_device": 4},
    "fused": {"model.frozen": True, "model.fusion": FUSION, "data.size": 64, "optim.batch_size": 4},
    "souped": {
        "optim.max_batch_per_device": 4,
        "soup": {"kind": "greedy", "snapshots": 2},
        "data.holdout_share": 0.25,
        "schedule.stages": ({"epochs": 1, "frozen": True},),
    },
    "weighted": {"loss.name": "lmf", "optim.max_batch_per_device": 3, "optim.batch_size": 7},
}


def train_all(sources: dict[str, ImageSource], name: str) -> None:
    """Train and predict a run of each challenge, by as many processes as this is called in.

    Each process writes of every update the norm of its gradient and the seed of its dropout beside the run.
    """
    for challenge, source in sources.items():
        recipe = tiny_recipe(**RECIPES[challenge])
        recorded_steps: list[tuple[float, int]] = []

        def record_call(
            optimizer: torch.optim.Optimizer, *_: object, recorded_steps: list = recorded_steps
        ) -> None:
            grads = [
                p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            recorded_steps.append((float(nn.utils.get_total_norm(grads)), torch.initial_seed()))

        handle = register_optimizer_step_pre_hook(record_call)
        train(source, TrainPlan(name, recipe, folds=None if challenge == "divided" else (0,)))
        handle.remove()
        path = source.workspace.root / f"{name}-{os.environ.get('RANK', '0')}.json"
        path.write_text(json.dumps(recorded_steps))
        predict(source, name, "oof")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, ImageSource]:
    """Challenges with runs by one process and by two, which are started once for all of them."""
    root = tmp_path_factory.mktemp("ranks")
    sources = {
        "divided": make_tiny(root / "divided"),
        "fused": make_tiny(root / "fused", n_patients=9),
        "souped": make_tiny(root / "souped"),
        "weighted": make_tiny(root / "weighted", task="single_label"),
    }
    train_all(sources, "by-1")
    script = tmp_path_factory.mktemp("script") / "train.py"
    script.write_text(TRAIN)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *torchrun, str(script), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return sources


def fold_dirs(sources: dict[str, ImageSource], name: str) -> list[Path]:
    """Fold 0 by one process and by two."""
    return [sources[name].workspace.run_dir("csv", f"by-{n}") / "fold0" for n in (1, 2)]


def oof(sources: dict[str, ImageSource], name: str) -> list[pd.DataFrame]:
    return [read_predictions(path / "oof.parquet", CLASSES)[0] for path in fold_dirs(sources, name)]


def require_close(weights: list[dict[str, torch.Tensor]]) -> None:
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        assert torch.allclose(value, weights[1][key], atol=1e-4), key


def test_two_processes_predict_every_row_once(sources):
    run_dir = sources["divided"].workspace.run_dir("csv", "by-2")
    frames = [read_predictions(run_dir / f"fold{k}" / "oof.parquet", CLASSES)[0] for k in FOLDS]
    ids = [image_id for frame in frames for image_id in frame.index]
    table = sources["divided"].challenge.read("train", sources["divided"].workspace.inputs_dir("csv"))
    assert sorted(ids) == sorted(table.index)
    assert not np.isnan(np.concatenate([frame.to_numpy() for frame in frames])).any()


def test_two_processes_predict_what_one_does(sources):
    one, two = oof(sources, "divided")
    assert list(one.index) == list(two.index)
    assert np.abs(one.to_numpy() - two.to_numpy()).max() < 1e-4


def recorded_steps(sources: dict[str, ImageSource], name: str, process: str) -> np.ndarray:
    """(n_updates, 2): norms of gradients and seeds of dropout."""
    return np.array(json.loads((sources[name].workspace.root / f"{process}.json").read_text()), dtype=object)


@pytest.mark.parametrize("name", ["divided", "souped"])
def test_the_gradient_of_two_processes_is_that_of_one(sources, name):
    """Not a share of it, which Adam would not notice: it divides by the size of gradients."""
    one, first, second = (recorded_steps(sources, name, f"by-{which}") for which in ("1-0", "2-0", "2-1"))
    assert len(one) == len(first) > 3
    n = len(one) // 3 if name == "divided" else len(one)
    np.testing.assert_allclose(first[:n, 0].astype(float), one[:n, 0].astype(float), rtol=1e-3)
    np.testing.assert_array_equal(first[:, 0], second[:, 0])


def test_every_process_draws_dropout_of_its_own_at_every_update(sources):
    seeds = [recorded_steps(sources, "souped", f"by-2-{rank}")[:, 1] for rank in (0, 1)]
    assert len({*seeds[0], *seeds[1]}) == len(seeds[0]) + len(seeds[1])


def test_two_processes_divide_a_weighted_loss_by_the_weights_of_the_whole_batch(sources):
    folders = fold_dirs(sources, "weighted")
    clipped = [list(pd.read_csv(folder / "log.csv")["clipped_share"]) for folder in folders]
    assert clipped[0] == clipped[1]
    assert max(clipped[0]) > 0
    require_close([load_file(folder / "weights.safetensors") for folder in folders])


def test_two_processes_fuse_the_features_of_a_frozen_backbone_as_one_does(sources):
    frames = oof(sources, "fused")
    assert len(frames[0]) == 6
    pd.testing.assert_frame_equal(*frames, atol=1e-4)
    assert len(list(sources["fused"].workspace.cache_dir().glob("features-*"))) == 1


def test_two_processes_pour_the_soup_of_a_staged_fold_that_one_does(sources):
    folders = fold_dirs(sources, "souped")
    assert not [path for folder in folders for path in folder.glob("snapshot*")]
    reports = [read_json(folder / "soup.json", made_by="") for folder in folders]
    assert reports[0]["taken"] == reports[1]["taken"]
    require_close([load_file(folder / "weights.safetensors") for folder in folders])
