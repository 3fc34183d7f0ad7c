"""Reading a damaged file between stages succeeds, or raises an error with the command that fixes it."""

import json
import os
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cxrlt.calibration.artifact import CALIBRATION, read_calibration
from cxrlt.calibration.calibrate import calibrate
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError
from cxrlt.folds.read import read_folds
from cxrlt.predictions.store import read_predictions
from cxrlt.predictions.trained_folds import find_trained_folds
from cxrlt.submissions.evaluate import SCORE, evaluate, leaderboard
from cxrlt.submissions.outdated import describe_outdated
from cxrlt.submissions.record import RECORD
from cxrlt.submissions.submit import submit
from sampled_cases import sample_cases
from tiny import CLASSES, SimulatedRuns, make_simulated_runs
from user_errors import raises_user_error

pytestmark = pytest.mark.slow

N_CHANGES = int(os.environ.get("CXRLT_BROKEN_CASES", "5"))
"""Of each file with --full; more of them by hand."""
WRONG = (None, [], {}, "text", "", True, -1, 0, 1e300, float("nan"), float("inf"), [[1]], {"a": {"b": 1}})
"""What may stand in the place of a value."""


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    """Two models, their ensemble, calibrations, scores and submissions; a test puts back what it breaks."""
    runs = make_simulated_runs(tmp_path_factory.mktemp("broken"), n_patients=40, n_folds=2)
    for seed, name in enumerate(("one", "two")):
        runs.add_run(name, skill=2, seed=seed)
    make_ensemble(runs.challenge, runs.workspace, "both", ["one", "two"], kind="stack", context=True)
    for name in ("one", "both"):
        calibrate(runs.challenge, runs.workspace, name, n_draws=5)
        evaluate(runs.challenge, runs.workspace, name, n_draws=5)
        submit(runs.challenge, runs.workspace, name, variant="calibrated")
    return runs


def folds_of(runs: SimulatedRuns, name: str) -> object:
    folds = read_folds(runs.challenge, runs.workspace)
    return find_trained_folds(runs.workspace.run_dir("csv", name), folds, "csv")


def reader_calls(runs: SimulatedRuns) -> Iterator[Callable[[], object]]:
    """Everything that reads what lies between stages."""
    args = (runs.challenge, runs.workspace)
    for name in ("one", "both"):
        yield lambda name=name: load_final_logits(name, "oof", runs.current_data)
        yield lambda name=name: submit(*args, name)
        yield lambda name=name: read_calibration(name, runs.current_data)
    yield lambda: evaluate(*args, "one", n_draws=2)
    yield lambda: make_ensemble(*args, "both", ["one", "two"], kind="stack", context=True)
    yield lambda: folds_of(runs, "one")
    yield lambda: describe_outdated(*args)


def collect_errors(runs: SimulatedRuns) -> list[str]:
    """The sentences with which readers refuse; any other exception is a failure."""
    sentences = []
    for read in reader_calls(runs):
        try:
            read()
        except UserError as error:
            sentences.append(str(error))
    return sentences


def make_restore(runs: SimulatedRuns) -> Callable[[], None]:
    folders = [runs.workspace.root / name for name in ("folds", "submissions")]
    kept = {p: p.read_bytes() for folder in folders for p in folder.rglob("*") if p.is_file()}

    def restore() -> None:
        for path, content in kept.items():
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)

    return restore


def artifact(runs: SimulatedRuns, name: str) -> Path:
    of_run = runs.workspace.folds_dir("csv")
    of_submission = runs.workspace.submission_dir("csv", "one")
    return of_submission / name if name in (SCORE, RECORD) else of_run / name


JSON = (
    "one/fold1/constants.json",
    "one/fold0/run.json",
    "one/study_mean.json",
    f"one/{CALIBRATION}",
    "both/weights.json",
    SCORE,
    RECORD,
)
OTHERS = ("one/fold0/config.yaml", "one/fold1/oof.parquet", "one/fold0/test.parquet", "both/test.parquet")


@pytest.mark.parametrize(("name", "share"), sample_cases(product([*JSON, *OTHERS], [0.5, 0, 1]), every=3))
def test_a_file_cut_anywhere_is_no_crash(finished_runs: SimulatedRuns, name: str, share: float) -> None:
    path, restore = artifact(finished_runs, name), make_restore(finished_runs)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * (len(content) - 9))])
    sentences = collect_errors(finished_runs)
    assert all("cxrlt " in sentence for sentence in sentences), sentences
    restore()


@pytest.mark.parametrize("n_changes", [2, pytest.param(N_CHANGES, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", JSON)
def test_wrong_values_and_missing_keys_are_no_crash(
    finished_runs: SimulatedRuns, name: str, n_changes: int
) -> None:
    path, restore = artifact(finished_runs, name), make_restore(finished_runs)
    values = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    places = list(json_paths(values))
    for number in range(n_changes):
        *above, last = places[rng.integers(len(places))]
        broken = json.loads(path.read_text())
        parent = broken
        for key in above:
            parent = parent[key]
        if number % 3 == 0:
            parent.pop(last)
        else:
            parent[last] = WRONG[rng.integers(len(WRONG))]
        path.write_text(json.dumps(broken))
        collect_errors(finished_runs)
        restore()


def json_paths(values: object, before: tuple = ()) -> Iterator[tuple]:
    keys = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for key in keys:
        yield (*before, key)
        yield from json_paths(values[key], (*before, key))


@pytest.mark.parametrize(
    ("name", "text"), sample_cases(product(JSON, ["[]", "null", "\xff\xfe", "[" * 100]), every=5)
)
def test_something_else_in_place_of_an_object_is_no_crash(
    finished_runs: SimulatedRuns, name: str, text: str
) -> None:
    path, restore = artifact(finished_runs, name), make_restore(finished_runs)
    path.write_text(text, encoding="latin-1")
    assert all("cxrlt " in sentence for sentence in collect_errors(finished_runs))
    restore()


def test_a_recipe_that_was_cut_between_two_lines_is_not_taken_for_a_shorter_one(
    finished_runs: SimulatedRuns,
) -> None:
    path, restore = artifact(finished_runs, "one/fold0/config.yaml"), make_restore(finished_runs)
    text = path.read_text()
    path.write_text(text[: text.index("predict:")])
    with raises_user_error("config.yaml", "predict", "--fold 0 --force"):
        load_final_logits("one", "oof", finished_runs.current_data)
    restore()


@pytest.mark.parametrize("wrong", sample_cases(WRONG, every=5), ids=repr)
def test_wrong_values_in_a_recipe_are_no_crash(finished_runs: SimulatedRuns, wrong: object) -> None:
    path, restore = artifact(finished_runs, "one/fold0/config.yaml"), make_restore(finished_runs)
    values = yaml.safe_load(path.read_text())
    for section in ("data", "predict"):
        path.write_text(yaml.safe_dump(values | {section: wrong}))
        assert all("cxrlt " in sentence for sentence in collect_errors(finished_runs))
        path.write_text(yaml.safe_dump({key: value for key, value in values.items() if key != section}))
        assert all("cxrlt " in sentence for sentence in collect_errors(finished_runs))
    restore()


def columns(n: int = 4) -> dict[str, pa.Array]:
    logits = pa.array(np.linspace(-1, 1, n, dtype=np.float32))
    return {"image_id": pa.array([f"i{k}" for k in range(n)])} | dict.fromkeys(CLASSES, logits)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_id": pa.array([1, 2, 3, 4])}, "needs text ids"),
        ({"image_id": pa.array([b"1", b"2", b"3", b"4"])}, "needs text ids"),
        ({"image_id": pa.array(["1", "2", None, "4"])}, "duplicate or blank ids"),
        ({"image_id": pa.array(["1", "2", "2", "4"])}, "duplicate or blank ids"),
        ({"image_id": None}, "missing: image_id"),
        ({"Mass": None}, "missing: Mass"),
        ({"Mass": pa.array(["1", "2", "3", "4"])}, "one column of float logits per class. Wrong: Mass"),
        ({"Mass": pa.array([1, 2, 3, 4])}, "one column of float logits per class. Wrong: Mass"),
        (
            {"Mass": pa.array([[1.0], [2.0], [3.0], [4.0]])},
            "one column of float logits per class. Wrong: Mass",
        ),
        ({"Mass": pa.array([{"a": 1.0}] * 4)}, "one column of float logits per class. Wrong: Mass"),
        ({"Nodule": pa.array([1.0, 2.0, 3.0, 4.0])}, "unknown: Nodule"),
        ({"Mass": pa.array([1.0, float("inf"), 3.0, 4.0])}, "infinite logits.*: i1"),
        ({"Mass": pa.array([1.0, float("-inf"), 3.0, 4.0])}, "infinite logits.*: i1"),
        ({"Mass": pa.array([1.0, 2.0, float("nan"), 4.0])}, "some classes only: i2"),
        ({"Mass": pa.array([1.0, 2.0, None, 4.0])}, "some classes only: i2"),
    ],
)
def test_columns_that_are_no_logits_by_id_are_refused(tmp_path: Path, change: dict, sentence: str) -> None:
    path = tmp_path / "oof.parquet"
    table = {name: values for name, values in (columns() | change).items() if values is not None}
    pq.write_table(pa.table(table), path)
    with pytest.raises(UserError, match=f"oof.parquet .*{sentence}.* Renew it with: cxrlt predict"):
        read_predictions(path, CLASSES)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "oof.parquet"
    values = list(columns().values())
    pq.write_table(pa.Table.from_arrays([*values, values[1]], names=["image_id", *CLASSES, "Mass"]), path)
    with pytest.raises(UserError, match=r"one column of float logits per class\. Wrong: Mass"):
        read_predictions(path, CLASSES)


def test_an_unreadable_image_is_blank_in_every_class(tmp_path: Path) -> None:
    path = tmp_path / "oof.parquet"
    blank = pa.array([None, 1.0, 2.0, 3.0], pa.float32())
    pq.write_table(pa.table(columns() | dict.fromkeys(CLASSES, blank)), path)
    frame, _ = read_predictions(path, CLASSES)
    assert frame.isna().all(axis=1).tolist() == [True, False, False, False]


def test_a_table_of_pandas_with_its_own_index_is_read_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "oof.parquet"
    frame = pd.DataFrame({name: array.to_pandas() for name, array in columns().items()})
    frame.set_index("image_id").to_parquet(path)
    assert read_predictions(path, CLASSES)[0].index.tolist() == ["i0", "i1", "i2", "i3"]


def test_damaged_runs_are_left_out_of_the_leaderboard_by_name(finished_runs: SimulatedRuns) -> None:
    path, restore = artifact(finished_runs, "two/fold0/oof.parquet"), make_restore(finished_runs)
    path.write_bytes(path.read_bytes()[:50])
    board = leaderboard(finished_runs.challenge, finished_runs.workspace, n_draws=2)
    assert [evaluation.name for evaluation in board.evaluations] == ["one"]
    assert "cxrlt predict two --challenge csv --split oof --force" in board.skipped["two"]
    restore()
