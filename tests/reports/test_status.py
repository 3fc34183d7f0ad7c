"""What `cxrlt status` shows of runs in every state."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from cxrlt.cli import main
from cxrlt.errors import UserError
from cxrlt.predictions.current_data import CurrentData
from cxrlt.recipe import Recipe, save_recipe
from cxrlt.reports.status import read_states, status_table
from cxrlt.system.locks import lock_folder
from cxrlt.training.plan import TrainPlan
from cxrlt.training.run_state import read_planned, record_failure, write_planned
from cxrlt.training.train import train
from interruptions import on_each_forward
from tiny import make_simulated_runs, make_tiny, tiny_recipe

LOG = "epoch,loss,oof_mAP,oof_mAUROC,images_per_s\n1,.5,.25,.6,100\n2,.4,.375,.7,20\n"


@pytest.fixture
def runs(tmp_path):
    return make_simulated_runs(tmp_path, n_patients=30)


def states_of(runs, run="model"):
    states = read_states(runs.challenge, runs.workspace, CurrentData(runs.challenge, runs.workspace))
    return {state.fold: state for state in states if state.run == run}


def make_unfinished(runs, fold=1, epochs=5):
    """Turn a fold of a finished run into one whose training has made two of its epochs."""
    directory = runs.add_run("model", 2.0, recipe=Recipe(schedule={"epochs": epochs})) / f"fold{fold}"
    (directory / "weights.safetensors").unlink()
    (directory / "log.csv").write_text(LOG)
    (directory / "card.json").write_text('{"n_train_images": 1000}')
    return directory


def folders(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if not path.name.startswith(".")}


def test_a_finished_fold_has_the_score_of_its_last_epoch(runs):
    directory = runs.add_run("model", 2.0)
    (directory / "fold0" / "log.csv").write_text(LOG)
    states = states_of(runs)
    assert [state.state for state in states.values()] == ["done"] * 3
    assert (states["0"].epoch, states["0"].scores["oof_mAP"]) == (2, 0.375)
    assert "0.375" in status_table(list(states.values()), runs.challenge)


def test_a_fold_with_a_locked_folder_is_running_and_its_rest_is_estimated(runs):
    directory = make_unfinished(runs)
    with lock_folder(directory):
        state = states_of(runs)["1"]
    assert (state.state, state.epoch, state.epochs, state.images_per_s) == ("running", 2, 5, 20)
    assert 3 * 1000 / 20 - 60 < state.seconds_left <= 3 * 1000 / 20
    os.utime(directory / "log.csv", (time.time() - 100,) * 2)
    with lock_folder(directory):
        assert 40 < states_of(runs)["1"].seconds_left <= 50


def test_the_same_fold_without_a_lock_has_stopped(runs):
    make_unfinished(runs)
    assert states_of(runs)["1"].state == "stopped"


def test_a_fold_before_its_first_epoch_is_running_without_an_estimate(runs):
    directory = make_unfinished(runs)
    (directory / "log.csv").unlink()
    with lock_folder(directory):
        state = states_of(runs)["1"]
    assert (state.state, state.epoch, state.seconds_left) == ("running", 0, None)


def test_planned_folds_wait_until_they_start(runs):
    run_dir = runs.workspace.run_dir("csv", "group/next")
    write_planned(run_dir, range(3), seed=7)
    states = states_of(runs, "group/next")
    assert {fold: (state.state, state.seed) for fold, state in states.items()} == dict.fromkeys(
        "012", ("waiting", 7)
    )


def test_finished_folds_are_not_planned_again(runs):
    run_dir = runs.add_run("model", 2.0)
    write_planned(run_dir, range(3), seed=0)
    assert not (run_dir / "planned.json").exists()
    write_planned(run_dir, [3], seed=0)
    write_planned(run_dir, [4], seed=0)
    assert read_planned(run_dir).folds == ("3", "4")


def test_a_failed_fold_has_its_sentence_until_the_next_training_starts(runs):
    directory = make_unfinished(runs)
    with pytest.raises(UserError), record_failure(directory):
        raise UserError("the disk is full.")
    state = states_of(runs)["1"]
    assert (state.state, state.detail) == ("failed", "the disk is full.")
    assert "model fold 1: the disk is full." in status_table([state], runs.challenge)
    with record_failure(directory):
        assert states_of(runs)["1"].state == "stopped"


def test_changed_labels_make_exactly_the_folds_outdated_that_used_them(runs):
    runs.add_run("model", 2.0)
    path = runs.workspace.inputs_dir("csv") / "train.csv"
    table, fold_of = pd.read_csv(path), runs.current_data.rows.fold
    chosen = table["image"].map(fold_of) == 2
    table.loc[chosen, "Mass"] = 1 - table.loc[chosen, "Mass"]
    table.to_csv(path, index=False)
    states = states_of(runs)
    assert {fold for fold, state in states.items() if state.state == "outdated"} == {"0", "1"}
    assert "labels" in states["0"].detail
    assert "Mass" in states["0"].detail


def test_a_damaged_file_is_shown_and_does_not_hide_the_other_folds(runs):
    directory = runs.add_run("model", 2.0)
    (directory / "fold1" / "run.json").write_text("{")
    states = states_of(runs)
    assert [state.state for state in states.values()] == ["done", "failed", "done"]
    assert "run.json is not valid JSON" in states["1"].detail


def test_without_its_tables_a_finished_fold_is_not_compared(runs):
    runs.add_run("model", 2.0)
    (runs.workspace.inputs_dir("csv") / "train.csv").unlink()
    state = states_of(runs)["0"]
    assert state.state == "done"
    assert state.detail.startswith("not compared with the current data: ")


def test_the_command_prints_a_table_or_json_and_changes_nothing(runs, capsys):
    make_unfinished(runs)
    root = runs.workspace.root
    before = folders(root)
    main(["status", "csv", "--root", str(root)])
    table = capsys.readouterr().out
    assert table.splitlines()[0].split() == [
        "run",
        "fold",
        "seed",
        "state",
        "epoch",
        "images/s",
        "left",
        "mAP",
    ]
    assert table.splitlines()[-1] == "2 done, 1 stopped"
    main(["status", "csv", "--root", str(root), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [each["state"] for each in found] == ["done", "stopped", "done"]
    assert folders(root) == before


def test_without_runs_the_command_says_how_to_start(runs, capsys):
    main(["status", "csv", "--root", str(runs.workspace.root)])
    assert capsys.readouterr().out == ("Nothing is planned or trained for csv. Start with: cxrlt run csv\n")


def test_watch_ends_when_nothing_is_running_or_waiting(runs, capsys):
    make_unfinished(runs)
    main(["status", "csv", "--root", str(runs.workspace.root), "--watch"])
    assert "stopped" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_that_fails_leaves_its_sentence(tmp_path):
    source = make_tiny(tmp_path, n_patients=16)
    plan = TrainPlan("broken", tiny_recipe(**{"schedule.epochs": 1}))

    def spoil(model, inputs, logits):
        return logits * float("nan") if model.training else None

    with pytest.raises(UserError) as raised, on_each_forward(spoil):
        train(source, plan)
    states = read_states(source.challenge, source.workspace, CurrentData(source.challenge, source.workspace))
    assert [state.state for state in states] == ["failed", "waiting", "waiting"]
    assert states[0].detail == str(raised.value)
    train(source, plan)
    states = read_states(source.challenge, source.workspace, CurrentData(source.challenge, source.workspace))
    assert [(state.state, state.detail) for state in states] == [("done", "")] * 3


@pytest.mark.slow
def test_a_killed_training_is_running_before_and_stopped_after(tmp_path):
    source = make_tiny(tmp_path, n_patients=16)
    recipe = tmp_path / "recipe.yaml"
    save_recipe(tiny_recipe(**{"schedule.epochs": 1000}), recipe)
    command = [sys.executable, "-m", "cxrlt", "train", str(recipe), "--challenge", "csv", "--fold", "0"]
    process = subprocess.Popen(
        [*command, "--name", "long", "--root", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    current, deadline = CurrentData(source.challenge, source.workspace), time.monotonic() + 120
    states = []
    while time.monotonic() < deadline and not (states and states[0].epoch):
        states = read_states(source.challenge, source.workspace, current)
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (states[0].state, states[0].epochs) == ("running", 1000)
    assert states[0].seconds_left > 0
    (after,) = read_states(source.challenge, source.workspace, current)
    assert (after.state, after.run, after.fold) == ("stopped", "long", "0")
