import os
import signal
import threading
import time

import pytest

from cxrlt import cli
from cxrlt.errors import UserError
from cxrlt.recipe import save_recipe
from cxrlt.system.signals import Stopped, stop_on_signals
from cxrlt.training.grid import job_command, train_grid, waves
from refusal import says
from tiny import make_tiny, tiny_recipe

pytestmark = pytest.mark.slow


def test_a_job_is_a_train_command_of_its_own(source):
    command = job_command(source, "demo_resnet", 2, 7)
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


@pytest.mark.full
def test_jobs_are_processes_that_train_and_predict(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    source = make_tiny(tmp_path, n_patients=8, n_folds=2)
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    save_recipe(tiny_recipe(**{"schedule.epochs": 1}), good)
    save_recipe(tiny_recipe(**{"loss.options": {"nonsense": 1}}), bad)
    with pytest.raises(UserError, match=r"bad.yaml fold 0.*bad.yaml fold 1"):
        train_grid(source, [str(good), str(bad)], n_folds=2, seed=0)
    run_dir = source.workspace.run_dir("csv", "good")
    assert all((run_dir / f"fold{fold}" / "oof.parquet").is_file() for fold in (0, 1))


SAVES = """
import os, signal, sys, time
from pathlib import Path

file = Path(__file__).with_name("fold" + sys.argv[sys.argv.index("--fold") + 1])

def save(number, frame):
    time.sleep(0.3)
    file.write_text("saved")
    sys.exit(128 + number)

signal.signal(signal.SIGTERM, save)
file.with_suffix(".new").write_text(str(os.getpgid(0)))
file.with_suffix(".new").rename(file)
time.sleep(60)
"""


@pytest.fixture
def jobs_are(monkeypatch, tmp_path):
    """A job is `python -m cxrlt train`, for which a script stands, as a package that is found before ours."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "cxrlt").mkdir()
    (tmp_path / "cxrlt" / "__init__.py").touch()

    def stand_in(script):
        (tmp_path / "cxrlt" / "__main__.py").write_text(script)
        return tmp_path / "cxrlt"

    return stand_in


WRITES = """
import os, sys
from pathlib import Path

recipe, fold = sys.argv[2], sys.argv[sys.argv.index("--fold") + 1]
Path(__file__).with_name(f"{recipe} {fold}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
sys.exit(2 * (recipe == "demo_resnet"))
"""


def test_every_fold_of_every_recipe_is_trained_and_failures_are_named(source, jobs_are):
    folder = jobs_are(WRITES)
    with pytest.raises(UserError) as error:
        train_grid(source, ["demo_resnet", "demo_darknet"], n_folds=3, seed=0)
    says(str(error.value), *(f"demo_resnet fold {fold}" for fold in range(3)))
    assert "demo_darknet" not in str(error.value)
    gpus = {path.name: path.read_text() for path in folder.glob("demo_*")}
    assert set(gpus) == {
        f"{recipe} {fold}" for recipe in ("demo_resnet", "demo_darknet") for fold in range(3)
    }
    assert set(gpus.values()) == {"0", "1"}


def test_a_signal_is_passed_on_to_the_jobs_and_waits_for_what_they_save(source, jobs_are):
    folder = jobs_are(SAVES)
    first, second, third = (folder / f"fold{fold}" for fold in range(3))
    groups = []

    def interrupt():
        while not (first.is_file() and second.is_file()):
            time.sleep(0.05)
        groups.extend([first.read_text(), second.read_text()])
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Stopped) as error, stop_on_signals():
        train_grid(source, ["demo_resnet"], n_folds=3, seed=0)
    assert error.value.exit_code == 130
    assert [first.read_text(), second.read_text()] == ["saved", "saved"]
    assert not third.exists()
    assert str(os.getpgid(0)) not in groups  # Ctrl-C would tell them twice
