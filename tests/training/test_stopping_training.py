"""A run that a signal stops saves its update, says so in a sentence, and goes on as if nothing had been."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from cxrlt.recipe import save_recipe
from cxrlt.stopping import Stopped, stop_on_signals
from cxrlt.training import loop, soup, validate
from cxrlt.training.checkpoint import checkpoints, update_of
from cxrlt.training.train import TrainPlan, train
from tiny import make_tiny, same, tiny_recipe, weights_of

OVER = {"schedule.epochs": 3, "optim.batch_size": 4, "model.drop_path": 0.2, "model.drop_rate": 0.1}
MIXED = {"data.mix": {"kinds": ("mixup", "cutmix")}}
SIGNAL_AT = """
import os, subprocess, sys
from cxrlt import cli
from cxrlt.training import loop

update, number, target = int(sys.argv[1]), sys.argv[2], sys.argv[3]
real = loop.update

def signalled(trainer, *args):
    if trainer.progress.update == update:  # from another process: what this one sends, its readers obey
        whom = f"-{os.getpid()}" if target == "group" else str(os.getpid())
        subprocess.run(["kill", "-s", number, "--", whom], start_new_session=True, check=True)
    return real(trainer, *args)

loop.update = signalled
cli.main(sys.argv[4:])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A challenge, and a recipe of it in a file."""
    source = make_tiny(tmp_path_factory.mktemp("stopped"))
    recipe = source.workspace.root / "recipe.yaml"
    save_recipe(tiny_recipe(**OVER, **MIXED), recipe)
    return source, recipe


@pytest.fixture(scope="module")
def undisturbed(place):
    source, _ = place
    (job,) = train(source, TrainPlan("undisturbed", tiny_recipe(**OVER, **MIXED), folds=(0,)))
    return weights_of(job)


def words(place, name: str, n_workers: int) -> list[str]:
    source, recipe = place
    command = ["train", str(recipe), "--challenge", "csv", "--fold", "0", "--name", name]
    return [*command, "--root", str(source.workspace.root), "--data.n-workers", str(n_workers)]


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=200, **options
    )


@pytest.mark.parametrize(
    ("number", "target", "n_workers"),
    [(signal.SIGTERM, "group", 2), (signal.SIGINT, "group", 2), (signal.SIGTERM, "alone", 0)],
)
def test_a_signal_in_the_midst_of_an_epoch_loses_no_update(
    place, undisturbed, number, target, n_workers, capsys
):
    source, _ = place
    name = f"{number.name}-{target}"
    command = words(place, name, n_workers)
    script = ["-c", SIGNAL_AT, "11", str(int(number)), target]
    stopped = run(*script, *command, start_new_session=True)
    assert stopped.returncode == 128 + number, stopped.stderr
    run_dir = source.workspace.run_dir("csv", name) / "fold0"
    assert re.search(rf"fold 0: update 12 of 24 is saved \({run_dir}/checkpoint-12\S+\)", stopped.stdout)
    assert [update_of(path) for path in checkpoints(run_dir)] == [12]
    last = stopped.stderr.strip().splitlines()
    assert last == [f"cxrlt: stopped by {number.name}; the same command goes on from here"]
    other = tiny_recipe(**OVER, **MIXED, **{"data.n_workers": 2 - n_workers})
    (job,) = train(source, TrainPlan(name, other, folds=(0,)))
    assert "going on from update 12 of 24" in capsys.readouterr().out
    assert same(weights_of(job), undisturbed)


def test_processes_of_one_training_stop_together_where_one_of_them_is_asked(place, undisturbed, capsys):
    source, _ = place
    script = source.workspace.root / "signalled.py"
    script.write_text(SIGNAL_AT.replace("== update", "== update and os.environ['RANK'] == '1'"))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    stopped = run(*torchrun, str(script), "11", "TERM", "alone", *words(place, "together", 0))
    assert stopped.returncode != 0
    assert stopped.stderr.count("cxrlt: stopped by SIGTERM; the same command goes on from here") == 2
    assert "fold 0: update 16 of 24 is saved" in stopped.stdout  # all look at it there
    (saved,) = checkpoints(source.workspace.run_dir("csv", "together") / "fold0")
    assert update_of(saved) == 16
    (job,) = train(source, TrainPlan("together", tiny_recipe(**OVER, **MIXED), folds=(0,)))
    assert "going on from update 16 of 24" in capsys.readouterr().out
    weights = weights_of(job)
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert weights.keys() == undisturbed.keys()


def signalling(real, when, number=signal.SIGTERM):
    """`real`, but for a signal before its call number `when`."""
    calls = []

    def signalled(*args, **options):
        calls.append(args)
        if len(calls) == when:
            os.kill(os.getpid(), number)
        return real(*args, **options)

    return signalled


@pytest.mark.parametrize(
    ("module", "function", "when", "saved"),
    [
        (loop, "update", 1, 1),
        (loop, "update", 6, 6),  # the last of an epoch
        (loop, "update", 18, 18),  # the last of all
        (loop, "validate", 2, 12),
        (validate, "infer", 3, 18),
        (loop, "pour", 1, 18),
        (soup, "mean_of", 2, 18),
    ],
)
def test_a_signal_wherever_it_comes_costs_nothing_that_is_saved(
    source, monkeypatch, module, function, when, saved
):
    over = OVER | {"soup": {"kind": "average", "snapshots": 2, "inner_share": 0.25}}
    plan = TrainPlan(f"signalled-{function}-{when}", tiny_recipe(**over, checkpoint_minutes=1e-9), folds=(0,))
    whole = TrainPlan("not-signalled", plan.recipe, folds=(0,))
    (undisturbed,) = train(source, whole)
    with monkeypatch.context() as patch, pytest.raises(Stopped), stop_on_signals():
        patch.setattr(module, function, signalling(getattr(module, function), when))
        train(source, plan)
    run_dir = source.workspace.run_dir("csv", plan.name) / "fold0"
    assert update_of(checkpoints(run_dir)[0]) == saved
    (job,) = train(source, plan)
    assert same(weights_of(job), weights_of(undisturbed))
    files = {path.name for path in undisturbed.run_dir.iterdir()}
    assert {path.name for path in job.run_dir.iterdir()} == files
    assert read_log(job) == read_log(undisturbed)


def read_log(job) -> list[list[str]]:
    """The lines of the log, but for the two columns of time."""
    return [line.split(",")[:-2] for line in (job.run_dir / "log.csv").read_text().splitlines()]


def test_a_second_sigterm_at_once_is_the_first_one_sent_to_the_group(source, monkeypatch):
    monkeypatch.setattr(loop, "update", signalling(loop.update, 3))
    monkeypatch.setattr(loop, "accumulate", signalling(loop.accumulate, 3))
    plan = TrainPlan("told-twice", tiny_recipe(**OVER), folds=(0,))
    with pytest.raises(Stopped), stop_on_signals():
        train(source, plan)
    (saved,) = checkpoints(source.workspace.run_dir("csv", plan.name) / "fold0")
    assert update_of(saved) == 3


def test_a_second_signal_does_not_wait_for_the_update(source, monkeypatch):
    real = loop.update

    def twice(trainer, *args):
        if trainer.progress.update == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")
        return real(trainer, *args)

    monkeypatch.setattr(loop, "update", twice)
    with pytest.raises(Stopped), stop_on_signals():
        train(source, TrainPlan("impatient", tiny_recipe(**OVER), folds=(0,)))
    assert not checkpoints(source.workspace.run_dir("csv", "impatient") / "fold0")
