"""A run that a signal stops saves its update, says so in a sentence, and goes on as if nothing had been."""

import signal
import subprocess
import sys
from contextlib import contextmanager

import pandas as pd
import pytest
import torch

from cxrlt.recipe import save_recipe
from cxrlt.system.signals import Stopped, stop_on_signals
from cxrlt.training.checkpoint import checkpoint_update, list_checkpoints
from cxrlt.training.train import TrainPlan, train
from interruptions import on_each_forward, on_update, raise_signal, stop_in_update
from tiny import load_weights, make_tiny, same_weights, tiny_recipe
from user_errors import assert_mentions

pytestmark = pytest.mark.slow

OVER = {"schedule.epochs": 3, "optim.batch_size": 4, "model.drop_path": 0.2, "model.drop_rate": 0.1}
MIXED = {"data.mix": {"kinds": ("mixup", "cutmix")}}
SIGNAL_AT = """
import os, subprocess, sys
from torch.optim.optimizer import register_optimizer_step_pre_hook
from cxrlt import cli

update, number, target = int(sys.argv[1]), sys.argv[2], sys.argv[3]
steps = []

def signalled(*_):
    steps.append(1)
    if len(steps) == update:  # from another process: what this one sends, its loader workers obey
        whom = f"-{os.getpid()}" if target == "group" else str(os.getpid())
        subprocess.run(["kill", "-s", number, "--", whom], start_new_session=True, check=True)

register_optimizer_step_pre_hook(signalled)
cli.main(sys.argv[4:])
"""


@pytest.fixture(scope="module")
def challenge_and_recipe(tmp_path_factory):
    """A challenge, and a recipe of it in a file."""
    source = make_tiny(tmp_path_factory.mktemp("stopped"))
    recipe = source.workspace.root / "recipe.yaml"
    save_recipe(tiny_recipe(**OVER, **MIXED), recipe)
    return source, recipe


@pytest.fixture(scope="module")
def uninterrupted(challenge_and_recipe):
    source, _ = challenge_and_recipe
    (job,) = train(source, TrainPlan("uninterrupted", tiny_recipe(**OVER, **MIXED), folds=(0,)))
    return load_weights(job)


def words(challenge_and_recipe, name: str, n_workers: int) -> list[str]:
    source, recipe = challenge_and_recipe
    command = ["train", str(recipe), "--challenge", "csv", "--fold", "0", "--name", name]
    return [*command, "--root", str(source.workspace.root), "--data.n-workers", str(n_workers)]


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=200, **options
    )


@pytest.mark.parametrize(
    ("number", "target", "n_workers"),
    [
        (signal.SIGTERM, "group", 2),
        pytest.param(signal.SIGINT, "group", 2, marks=pytest.mark.full),
        pytest.param(signal.SIGTERM, "alone", 0, marks=pytest.mark.full),
    ],
)
def test_a_signal_in_the_midst_of_an_epoch_loses_no_update(
    challenge_and_recipe, uninterrupted, number, target, n_workers, capsys
):
    source, _ = challenge_and_recipe
    name = f"{number.name}-{target}"
    command = words(challenge_and_recipe, name, n_workers)
    script = ["-c", SIGNAL_AT, "12", str(int(number)), target]
    stopped = run(*script, *command, start_new_session=True)
    assert stopped.returncode == 128 + number, stopped.stderr
    run_dir = source.workspace.run_dir("csv", name) / "fold0"
    assert_mentions(stopped.stdout, "fold 0", "update 12 of 24", run_dir / "checkpoint-12.safetensors")
    assert [checkpoint_update(path) for path in list_checkpoints(run_dir)] == [12]
    last = stopped.stderr.strip().splitlines()
    assert len(last) == 1
    assert_mentions(last[0], number.name, "the same command")
    other = tiny_recipe(**OVER, **MIXED, **{"data.n_workers": 2 - n_workers})
    (job,) = train(source, TrainPlan(name, other, folds=(0,)))
    assert "continuing from update 12 of 24" in capsys.readouterr().out
    assert same_weights(load_weights(job), uninterrupted)


@pytest.mark.full
def test_processes_of_one_training_stop_together_where_one_of_them_is_asked(
    challenge_and_recipe, uninterrupted, capsys
):
    source, _ = challenge_and_recipe
    script = source.workspace.root / "signalled.py"
    script.write_text(SIGNAL_AT.replace("== update", "== update and os.environ['RANK'] == '1'"))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    stopped = run(*torchrun, str(script), "12", "TERM", "alone", *words(challenge_and_recipe, "together", 0))
    assert stopped.returncode != 0
    said = [line for line in stopped.stderr.splitlines() if line.startswith("cxrlt: ") and "SIGTERM" in line]
    assert len(said) == 2  # one of each process
    assert_mentions(stopped.stdout, "fold 0", "update 16 of 24")  # all look at it there
    (saved,) = list_checkpoints(source.workspace.run_dir("csv", "together") / "fold0")
    assert checkpoint_update(saved) == 16
    (job,) = train(source, TrainPlan("together", tiny_recipe(**OVER, **MIXED), folds=(0,)))
    assert "continuing from update 16 of 24" in capsys.readouterr().out
    weights = load_weights(job)
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert weights.keys() == uninterrupted.keys()


@contextmanager
def stopping_in_validation(run_dir, logged: int, wanted: int):
    """Send SIGTERM in validation pass number `wanted` after `logged` epochs are logged."""
    passes = []

    def record_call(model, *_):
        log = run_dir / "log.csv"
        if not model.training and (len(pd.read_csv(log)) if log.is_file() else 0) == logged:
            passes.append(model)
            if len(passes) == wanted:
                raise_signal()

    with pytest.raises(Stopped), stop_on_signals(), on_each_forward(record_call):
        yield


@pytest.fixture(scope="module")
def not_signalled(source):
    (job,) = train(source, soup_plan("not-signalled"))
    return job


def soup_plan(name: str) -> TrainPlan:
    """18 updates in three epochs, each of which is validated in two passes; then a soup."""
    soup = {"soup": {"kind": "average", "snapshots": 2}, "data.holdout_share": 0.25}
    over = OVER | soup | {"optim.max_batch_per_device": 8}
    return TrainPlan(name, tiny_recipe(**over, checkpoint_minutes=1e-9), folds=(0,))


@pytest.mark.parametrize("update", [1, 6, 18])  # 6 is the last of an epoch, 18 the last of all
def test_a_signal_in_an_update_costs_nothing(source, not_signalled, update):
    plan = soup_plan(f"signalled-in-update-{update}")
    with stop_in_update(update):
        train(source, plan)
    require_same_end(source, plan, not_signalled, saved=update)


@pytest.mark.parametrize(
    ("logged", "wanted", "saved"),
    [
        (1, 1, 12),  # the second epoch is validated
        (2, 2, 18),  # the last pass of the last epoch's validation
        (3, 1, 18),  # the soup's first pass
        (3, 2, 18),
    ],
)
def test_a_signal_in_validation_or_soup_costs_nothing_that_is_saved(
    source, not_signalled, logged, wanted, saved
):
    plan = soup_plan(f"signalled-after-{logged}-{wanted}")
    with stopping_in_validation(source.workspace.run_dir("csv", plan.name) / "fold0", logged, wanted):
        train(source, plan)
    require_same_end(source, plan, not_signalled, saved=saved)


def require_same_end(source, plan, uninterrupted, saved: int) -> None:
    """The stopped run has this update, and trained on it ends in every file as one that was left alone."""
    run_dir = source.workspace.run_dir("csv", plan.name) / "fold0"
    assert checkpoint_update(list_checkpoints(run_dir)[0]) == saved
    (job,) = train(source, plan)
    assert same_weights(load_weights(job), load_weights(uninterrupted))
    files = {path.name for path in uninterrupted.run_dir.iterdir()}
    assert {path.name for path in job.run_dir.iterdir()} == files
    assert read_log(job) == read_log(uninterrupted)


def read_log(job) -> list[list[str]]:
    """The lines of the log, but for the two columns of time."""
    return [line.split(",")[:-2] for line in (job.run_dir / "log.csv").read_text().splitlines()]


def test_a_second_sigterm_at_once_is_the_first_one_sent_to_the_group(source):
    plan = TrainPlan("told-twice", tiny_recipe(**OVER), folds=(0,))
    with pytest.raises(Stopped), stop_on_signals(), on_update(3, lambda: (raise_signal(), raise_signal())):
        train(source, plan)
    (saved,) = list_checkpoints(source.workspace.run_dir("csv", plan.name) / "fold0")
    assert checkpoint_update(saved) == 3


def test_a_second_signal_does_not_wait_for_the_update(source):
    def twice():
        raise_signal(signal.SIGINT)
        raise_signal(signal.SIGINT)
        pytest.fail("went on")

    with pytest.raises(Stopped), stop_on_signals(), on_update(3, twice):
        train(source, TrainPlan("impatient", tiny_recipe(**OVER), folds=(0,)))
    assert not list_checkpoints(source.workspace.run_dir("csv", "impatient") / "fold0")
