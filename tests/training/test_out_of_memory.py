"""After an out-of-memory error, fewer rows are computed at once, with the same result."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from tqdm import tqdm

from cxrlt.errors import UserError
from cxrlt.recipe import save_recipe
from cxrlt.training.batches import Batch, batch_stream
from cxrlt.training.checkpoint import list_checkpoints
from cxrlt.training.datasets import create_eval_dataset
from cxrlt.training.infer import infer
from cxrlt.training.loop import train_epoch
from cxrlt.training.out_of_memory import BatchNormStats
from cxrlt.training.setup import Trainer, create_accelerator, create_trainer
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from interruptions import n_rows, on_each_forward, on_update, stop_in_update
from sampled_cases import sample_cases
from tiny import CLASSES, load_weights, make_tiny, same_weights, tiny_recipe
from user_errors import assert_mentions

pytestmark = pytest.mark.slow

DROPS = {"model.drop_path": 0.2, "model.drop_rate": 0.2}
TRAIN_SMALL = """
import os, sys
import torch
from torch.nn.modules.module import register_module_forward_hook
from tqdm import tqdm
from cxrlt import cli

def full(module, inputs, _):
    rows = inputs[0]
    if module.training and os.environ["RANK"] == "1" and torch.is_tensor(rows) and len(rows) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

register_module_forward_hook(full)
cli.main(sys.argv[1:])
"""


FULL = "CUDA out of memory. Tried to allocate 2.00 GiB.\nMore on that."


@contextmanager
def limiting_memory(largest: int, after: int = 0, training: bool = True) -> Iterator[list[int]]:
    """Raise OutOfMemoryError above `largest` rows after pass number `after`; yield the computed sizes."""
    passes, computed = [], []

    def record_call(model, inputs, _):
        if model.training == training:
            passes.append(model)
            if (
                len(passes) > after and n_rows(inputs) > largest
            ):  # in a hook after the module: a real error is raised in the middle
                raise torch.OutOfMemoryError(FULL)
            computed.append(n_rows(inputs))

    with on_each_forward(record_call):
        yield computed


@contextmanager
def limiting_backbone_memory(largest: int) -> Iterator[None]:
    """Raise OutOfMemoryError in the backbone above `largest` rows, also while features are computed."""

    def full(module: torch.nn.Module, inputs: tuple, _: object) -> None:
        if isinstance(module, torch.nn.Conv2d) and len(inputs[0]) > largest:
            raise torch.OutOfMemoryError(FULL)

    handle = register_module_forward_hook(full)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("backbone", sample_cases(["test_convnext", "test_resnet"]))
def test_a_run_that_needs_less_at_a_time_is_the_one_that_took_less_from_the_start(source, capsys, backbone):
    fields = DROPS | {"model.backbone": backbone, "schedule.epochs": 1, "data.mix": {"kinds": ("mixup",)}}
    small = tiny_recipe(**fields, **{"optim.max_batch_per_device": 2})
    (wanted,) = train(source, TrainPlan(f"small-{backbone}", small, folds=(0,)))
    with limiting_memory(3) as computed:
        (job,) = train(source, TrainPlan(f"full-{backbone}", tiny_recipe(**fields), folds=(0,)))
    assert set(computed) == {2}
    assert same_weights(load_weights(job), load_weights(wanted))
    out = capsys.readouterr().out
    first, second = [line for line in out.splitlines() if "out of memory" in line]
    assert_mentions(first, "fold 0", "8 rows", "update 1", "micro-batches of 4")
    assert_mentions(second, "fold 0", "4 rows", "update 1", "micro-batches of 2")
    assert (job.run_dir / "first_batch.png").read_bytes() == (wanted.run_dir / "first_batch.png").read_bytes()


@pytest.mark.parametrize("n_workers", sample_cases([0, 2], first=1))
def test_memory_that_is_full_later_changes_the_sums_alone(source, n_workers):
    fields = {"data.n_workers": n_workers}
    (whole,) = train(source, TrainPlan(f"roomy-{n_workers}", tiny_recipe(**fields), folds=(0,)))
    with limiting_memory(4, after=5) as computed:
        (job,) = train(source, TrainPlan(f"fuller-{n_workers}", tiny_recipe(**fields), folds=(0,)))
    assert computed == [8] * 5 + [4] * 6
    for key, value in load_weights(whole).items():
        assert torch.allclose(value, load_weights(job)[key], atol=2e-5), key


def test_what_a_failed_update_has_added_up_is_forgotten(source):
    def run(name: str, n_rows: int) -> dict[str, torch.Tensor]:
        recipe = tiny_recipe(**{"schedule.epochs": 1, "optim.max_batch_per_device": n_rows})
        return load_weights(*train(source, TrainPlan(name, recipe, folds=(0,))))

    wanted = run("twos", 2)
    with limiting_memory(2, after=1) as computed:  # the first half of the first batch goes through
        assert same_weights(run("halfway", 4), wanted)
    assert computed == [4] + [2] * 16


def test_what_batchnorm_saw_of_a_failed_update_is_forgotten():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2)).train()
    batchnorm_stats = BatchNormStats(model)
    model(torch.rand(4, 1, 3, 3))
    batchnorm_stats.save()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.rand(4, 1, 3, 3))
    assert not same_weights(model.state_dict(), before)
    batchnorm_stats.restore()
    assert same_weights(model.state_dict(), before)


def trainer_of(source, name: str, **over: object) -> Trainer:
    (job,) = create_fold_jobs(source, TrainPlan(name, tiny_recipe(**over), folds=(0,)))
    job.run_dir.mkdir(parents=True)
    return create_trainer(job, create_accelerator(job.recipe))


def test_every_update_can_go_back_to_what_batchnorm_had_seen_before_it(source):
    trainer = trainer_of(source, "seen", **{"model.backbone": "test_resnet"})
    before = {}

    def noting() -> Iterator[Batch]:
        for batch in batch_stream(trainer):
            before.update({name: value.clone() for name, value in trainer.raw_model.named_buffers()})
            yield batch

    train_epoch(trainer, 0, noting(), tqdm(disable=True))
    assert not same_weights(dict(trainer.raw_model.named_buffers()), before)
    trainer.batchnorm_stats.restore()
    assert same_weights(dict(trainer.raw_model.named_buffers()), before)


@pytest.mark.parametrize(("wanted", "remembered", "rows"), [(2, 5, 2), (8, 5, 5), (8, None, 8)])
def test_what_the_memory_held_before_is_no_more_than_a_limit(source, wanted, remembered, rows):
    over = {"optim.max_batch_per_device": wanted}
    trainer = trainer_of(source, f"limit-{wanted}-{remembered}", **over)
    trainer.progress.micro_batch_size = remembered
    assert trainer.micro_batch_size == rows


def test_a_resumed_run_knows_how_much_the_memory_holds(source, capsys):
    plan = TrainPlan("remembered", tiny_recipe(**DROPS), folds=(0,))
    with limiting_memory(4) as computed:
        with stop_in_update(5):
            train(source, plan)
        computed.clear()
        capsys.readouterr()
        (job,) = train(source, plan)
    assert computed == [4] * 6
    assert "out of memory" not in capsys.readouterr().out
    small = tiny_recipe(**DROPS, **{"optim.max_batch_per_device": 4})
    (wanted,) = train(source, TrainPlan("small-from-the-start", small, folds=(0,)))
    assert same_weights(load_weights(job), load_weights(wanted))


def test_memory_that_does_not_hold_one_row_is_a_sentence(source):
    with (
        limiting_memory(0),
        pytest.raises(UserError, match=r"fold 0.* single row.*--data\.size"),
    ):
        train(source, TrainPlan("tiny-device", tiny_recipe(), folds=(0,)))
    assert not list_checkpoints(source.workspace.run_dir("csv", "tiny-device") / "fold0")


def test_memory_that_is_full_elsewhere_is_a_sentence(source):
    def full():
        raise torch.OutOfMemoryError(FULL)

    with on_update(1, full), pytest.raises(UserError, match=r"CUDA out .* GiB.*--data\.size") as error:
        train(source, TrainPlan("no-moments", tiny_recipe(), folds=(0,)))
    assert "\n" not in str(error.value)


def test_a_smaller_batch_per_device_does_not_make_another_run(source):
    train(source, TrainPlan("shrunk", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,)))
    smaller = tiny_recipe(**{"schedule.epochs": 1, "optim.max_batch_per_device": 2})
    assert train(source, TrainPlan("shrunk", smaller, folds=(0,)))[0].is_finished


def logits(source, model, batch_size):
    table, cache = source.load_split("dev", 32)
    return infer(
        model,
        create_eval_dataset(tiny_recipe(), table, CLASSES, cache),
        list(table.index),
        tuple(CLASSES),
        create_accelerator(tiny_recipe()),
        task="multi_label",
        batch_size=batch_size,
        n_workers=0,
    )


class Linear(torch.nn.Module):
    """What a row gives depends in no bit on its batch; the memory holds `n_rows`."""

    def __init__(self, n_rows: int) -> None:
        super().__init__()
        self.n_rows, self.seen = n_rows, []

    def predict(self, inputs):
        images = inputs["images"]
        self.seen.append(len(images))
        if len(images) > self.n_rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return images.float().flatten(1)[:, :3]


def test_a_prediction_needs_no_more_memory_than_there_is(source, capsys):
    roomy, small = Linear(48), Linear(5)
    whole = logits(source, roomy, 20)
    found = logits(source, small, 20)
    assert found.equals(whole)
    assert not np.isnan(found.to_numpy()).any()
    assert small.seen == [20, 10, 5, 5, 5, 5, 5, 5, 5, 5, 5, 3]
    out = capsys.readouterr().out
    assert_mentions(out, "predict", "out of memory with 20 rows", "chunks of 10 rows")
    with pytest.raises(UserError, match=r"predict.* single row"):
        logits(source, Linear(0), 20)


def test_validation_and_features_need_no_more_memory_than_there_is(source, capsys):
    over = {"schedule.epochs": 1, "model.frozen": True}
    (whole,) = train(source, TrainPlan("frozen-roomy", tiny_recipe(**over), folds=(0,)))
    for path in source.workspace.cache_dir().glob("features-*"):
        path.rename(path.with_name(f"other-{path.name}"))
    with limiting_backbone_memory(7):
        (job,) = train(source, TrainPlan("frozen-full", tiny_recipe(**over), folds=(0,)))
    for key, value in load_weights(whole).items():
        assert torch.allclose(value, load_weights(job)[key], atol=1e-5), key
    assert_mentions(capsys.readouterr().out, "features", "out of memory with 32 rows", "chunks of 16 rows")
    with limiting_memory(3, training=False):
        (scored,) = train(source, TrainPlan("scored", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,)))
    assert scored.is_finished
    assert_mentions(capsys.readouterr().out, "validate", "out of memory with 16 rows", "chunks of 8 rows")


@pytest.mark.full
def test_one_process_of_several_names_the_flag_and_all_end(tmp_path):
    source = make_tiny(tmp_path)
    recipe, script = tmp_path / "recipe.yaml", tmp_path / "small.py"
    save_recipe(tiny_recipe(), recipe)
    script.write_text(TRAIN_SMALL)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), "train", str(recipe), "--challenge", "csv", "--fold", "0", "--name", "two"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "--root", str(source.workspace.root)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert done.returncode != 0
    assert_mentions(done.stderr, "fold 0", "4 rows", "--optim.max-batch-per-device 2")


def test_memory_that_does_not_hold_what_batchnorm_needs_is_a_sentence(source):
    recipe = tiny_recipe(**{"model.backbone": "test_resnet"})
    with (
        limiting_memory(1),
        pytest.raises(UserError, match=r"out of memory with 2 rows.*BatchNorm.*--data\.size"),
    ):
        train(source, TrainPlan("one-value", recipe, folds=(0,)))
