import os
import signal
import sys

import pytest

from cxrlt import cli
from cxrlt.errors import UserError
from cxrlt.recipe import save_recipe
from cxrlt.stopping import Stopped, stop_on_signals
from cxrlt.training import grid
from cxrlt.training.grid import train_command, train_grid, waves
from tiny import make_tiny, tiny_recipe


def test_a_job_is_a_train_command_of_its_own(source):
    command = train_command(source, "demo_resnet", 2, 7)
    parsed = cli.parse(command[3:])
    assert (parsed.recipe, parsed.challenge, parsed.fold, parsed.seed) == ("demo_resnet", "csv", (2,), 7)
    assert parsed.workspace.images_dir("csv") == source.workspace.images_dir("csv")
    assert parsed.workspace.cache_dir() == source.workspace.cache_dir()


def test_what_a_run_starts_from_is_trained_before_it_whatever_the_order():
    recipes = {
        "third": tiny_recipe(**{"model.start_from": "second"}),
        "second": tiny_recipe(**{"model.start_from": "csv:first"}),
        "elsewhere": tiny_recipe(**{"model.start_from": "nih14:third"}),
        "first": tiny_recipe(),
    }
    assert waves("csv", recipes) == [["elsewhere", "first"], ["second"], ["third"]]
    recipes["first"] = tiny_recipe(**{"model.start_from": "third"})
    with pytest.raises(UserError, match=r"third, second, first start from each other"):
        waves("csv", recipes)


def test_every_fold_of_every_recipe_is_trained_and_failures_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    source = make_tiny(tmp_path, n_patients=8, n_folds=2)
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    save_recipe(tiny_recipe(**{"schedule.epochs": 1}), good)
    save_recipe(tiny_recipe(**{"loss.options": {"nonsense": 1}}), bad)
    with pytest.raises(UserError, match=r"bad.yaml fold 0.*bad.yaml fold 1"):
        train_grid(source, [str(good), str(bad)], n_folds=2, seed=0)
    run_dir = source.workspace.run_dir("csv", "good")
    assert all((run_dir / f"fold{fold}" / "oof.parquet").is_file() for fold in (0, 1))


CHILD = """
import os, sys, time
from pathlib import Path
from cxrlt.stopping import Stopped, put_off, stop_if_asked, stop_on_signals
try:
    with stop_on_signals(), put_off():
        Path(sys.argv[1]).write_text(str(os.getpgid(0)))
        while True:
            time.sleep(0.01)
            stop_if_asked()
except Stopped as stopped:
    Path(sys.argv[1]).write_text("saved")
    sys.exit(stopped.exit_code)
"""


def test_a_signal_is_passed_on_to_the_jobs_and_waits_for_what_they_save(source, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    files = {fold: tmp_path / str(fold) for fold in range(3)}
    monkeypatch.setattr(
        grid, "train_command", lambda source, recipe, fold, seed: [sys.executable, "-c", CHILD, files[fold]]
    )
    real, sleeps = grid.time.sleep, []

    def signalled(seconds):
        real(seconds)
        if not sleeps and all(files[fold].is_file() and files[fold].read_text() for fold in (0, 1)):
            groups = {files[fold].read_text() for fold in (0, 1)}
            assert str(os.getpgid(0)) not in groups
            sleeps.append(seconds)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(grid.time, "sleep", signalled)
    with pytest.raises(Stopped) as error, stop_on_signals():
        train_grid(source, ["demo_resnet"], n_folds=3, seed=0)
    assert error.value.exit_code == 130
    assert [files[fold].read_text() for fold in (0, 1)] == ["saved", "saved"]
    assert not files[2].exists()
