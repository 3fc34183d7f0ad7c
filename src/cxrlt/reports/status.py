"""`cxrlt status`: the state of every run and fold of a challenge, from their files."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cxrlt.artifacts import Workspace, run_name_from_dir
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.trained_folds import fold_dirs
from cxrlt.provenance import describe_differences
from cxrlt.recipe import load_recipe
from cxrlt.system.jobs import format_duration
from cxrlt.text_table import text_table
from cxrlt.training.record import read_run_record
from cxrlt.training.run_paths import CONFIG, fold_dir, fold_from_dir
from cxrlt.training.run_state import PLANNED, FoldState, read_fold_state, read_planned

WATCH_SECONDS = 2.0
"""Time between two tables of --watch."""
CLEAR_SCREEN = "\x1b[H\x1b[2J"


def read_states(challenge: Challenge, workspace: Workspace, current: CurrentData) -> list[FoldState]:
    """Return the state of every planned, started and finished fold, by run and fold.

    A fold with a damaged file is failed. A finished fold is outdated if its split or data have changed.
    """
    root = workspace.folds_dir(challenge.name)
    planned = {path.parent for path in root.rglob(PLANNED)}
    started = {path.parent for path in root.rglob("fold[0-9]*/run.json")}
    started |= {path.parent.parent for path in root.rglob("refit/run.json")}
    return [
        state
        for run_dir in sorted(planned | {path.parent for path in started})
        for state in _run_states(run_dir, challenge, current)
    ]


def _run_states(run_dir: Path, challenge: Challenge, current: CurrentData) -> Iterator[FoldState]:
    run, planned = run_name_from_dir(run_dir, challenge.name), read_planned(run_dir)
    folders = {fold_from_dir(directory): directory for directory in fold_dirs(run_dir)}
    folders |= {fold: fold_dir(run_dir, fold) for fold in planned.folds if fold not in folders}
    for fold, directory in sorted(folders.items(), key=lambda item: (len(item[0]), item[0])):
        try:
            state = read_fold_state(run, directory)
            if state.state == "done":
                state = _compared(state, directory, challenge, current)
        except UserError as error:
            state = FoldState(run, fold, None, "failed", detail=str(error))
        yield replace(state, seed=planned.seed) if state.seed is None else state


def _compared(state: FoldState, directory: Path, challenge: Challenge, current: CurrentData) -> FoldState:
    """Return the state of a finished fold after a comparison with the current split and data."""
    record, recipe = read_run_record(directory, challenge.name), load_recipe(None, directory / CONFIG)
    try:
        if not current.folds.was_training_split(record.provenance, record.fold):
            return replace(state, state="outdated", detail="trained on another split into folds")
        changes = current.data_changes(record, recipe)
    except UserError as error:
        return replace(state, detail=f"not compared with the current data: {error}")
    if not changes:
        return state
    return replace(state, state="outdated", detail=f"trained on {describe_differences(changes)}")


def status_json(states: Sequence[FoldState]) -> str:
    """Return the states as one line of JSON."""
    return json.dumps([asdict(state) for state in states])


def status_table(states: Sequence[FoldState], challenge: Challenge) -> str:
    """Return the states as a table, and below it how many folds are in which state."""
    if not states:
        return f"Nothing is planned or trained for {challenge.name}. Start with: cxrlt run {challenge.name}"
    metric = challenge.metric
    rows = [
        [
            state.run,
            state.fold,
            "" if state.seed is None else str(state.seed),
            state.state,
            "" if state.epochs is None else f"{state.epoch}/{state.epochs}",
            "" if state.images_per_s is None else f"{state.images_per_s:.0f}",
            "" if state.seconds_left is None else format_duration(state.seconds_left),
            _score(state, metric),
        ]
        for state in states
    ]
    headings = ["run", "fold", "seed", "state", "epoch", "images/s", "left", metric]
    lines = [text_table(headings, rows, n_text=4)]
    lines += [f"{each.run} fold {each.fold}: {each.detail}" for each in states if each.detail]
    counts = Counter(state.state for state in states)
    return "\n".join([*lines, ", ".join(f"{n} {state}" for state, n in counts.items())])


def _score(state: FoldState, metric: str) -> str:
    score = (state.scores or {}).get(f"oof_{metric}")
    return "" if score is None or score != score else f"{score:.3f}"


def show_status(challenge: Challenge, workspace: Workspace, *, watch: bool, as_json: bool) -> None:
    """Print the status; with `watch`, every two seconds until nothing is running or waiting."""
    current = CurrentData(challenge, workspace)
    while True:
        states = read_states(challenge, workspace, current)
        text = status_json(states) if as_json else status_table(states, challenge)
        print(f"{CLEAR_SCREEN if watch and not as_json else ''}{text}", flush=True)
        if not watch or not any(state.state in ("running", "waiting") for state in states):
            return
        time.sleep(WATCH_SECONDS)
