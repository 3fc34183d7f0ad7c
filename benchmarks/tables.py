"""Tables, folds, submissions and the command itself at the size of CXR-LT 2024."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from scipy.special import expit

from benchmarks.clock import Usage, race, run_command
from benchmarks.growth import STEPS, Growth, growth
from benchmarks.layout import (
    CHALLENGE,
    ROWS,
    challenge,
    n_patients,
    write_images,
    write_tables,
    write_test_table,
)
from benchmarks.rows import Mark, Row
from benchmarks.setting import Setting
from benchmarks.synthetic import logits_for, long_tailed, patients
from cxrlt.artifacts import Workspace
from cxrlt.folds.balance import balance
from cxrlt.folds.make import make_folds
from cxrlt.folds.split import split_patients
from cxrlt.predictions.present import Present
from cxrlt.predictions.standardise import write_constants
from cxrlt.predictions.store import PredictionsMeta, write_predictions
from cxrlt.recipe import Recipe, override_recipe, save_recipe
from cxrlt.submissions.write import write_submission

N_FOLDS = 5
FEWEST = 200
MOST_SECONDS, MOST_GB, MOST_HELP_SECONDS = 20.0, 2.0, 0.5
RUN = "five-folds"


def folds_rows(setting: Setting) -> Iterator[Row]:
    """Patients whole, against rows by iterative stratification, which looks as even and leaks."""
    n = setting.size(ROWS, FEWEST)
    table, classes = _labelled(n), challenge().classes
    targets = table[list(classes)].to_numpy()
    found: dict[str, pd.Series] = {}

    def ours() -> None:
        found["ours"] = split_patients(table, classes, N_FOLDS, seed=0)

    def by_rows() -> None:
        fold = pd.Series(0, index=table.index)
        splitter = MultilabelStratifiedKFold(n_splits=N_FOLDS, shuffle=True, random_state=0)
        for number, (_, rows) in enumerate(splitter.split(targets, targets)):
            fold.iloc[rows] = number
        found["theirs"] = fold

    seconds, others = race(ours, by_rows, repeats=2)
    mine, theirs = (balance(table, classes, found[name]) for name in ("ours", "theirs"))
    leaks = mine["patients_in_two_folds"]
    yield Row(
        f"folds: {n:,} rows of {mine['n_patients']:,} patients",
        n / seconds,
        "rows/s",
        Mark("iterative-stratification on rows", n / others),
        target=1.0,
        note=f"patients in two folds: {leaks:,}, theirs {theirs['patients_in_two_folds']:,}; "
        f"CV of label rates: {mine['label_cv_mean']:.4f}, theirs {theirs['label_cv_mean']:.4f}",
        wrong=f"{leaks:,} patients are in two folds" if leaks else "",
    )


def folds_growth(setting: Setting) -> Growth:
    def prepare(n: int) -> Callable[[], object]:
        table = _labelled(n)
        return lambda: split_patients(table, challenge().classes, N_FOLDS, seed=0)

    return growth("folds", "row", _smallest(setting), prepare)


def table_rows(setting: Setting) -> Iterator[Row]:
    """Reading the tables of all splits, and `cxrlt check` on them with all image files in place."""
    n, workspace = setting.size(ROWS, FEWEST), Workspace(setting.folder)
    paths = write_tables(workspace, n)
    inputs = workspace.inputs_dir(CHALLENGE)
    seconds, least = race(lambda: _read_all(inputs), lambda: _read_bytes(inputs))
    yield Row(
        f"tables: {n:,} rows of three splits read",
        seconds,
        "s",
        target=MOST_SECONDS,
        limit=Mark("pyarrow reading the same files", least),
        lower_is_better=True,
    )
    print(f"bench: making {n:,} empty image files, removed afterwards …", file=sys.stderr, flush=True)
    write_images(workspace.images_dir(CHALLENGE), paths)
    folders = [str(inputs / folder) for folder in paths.str.rpartition("/")[0].unique()]
    (least,) = race(lambda: _list(folders), repeats=2, clock=time.perf_counter)
    usage = run_command(["check", CHALLENGE, "--root", str(setting.folder)])
    limit = Mark(f"listing the {len(folders):,} folders of its images", least)
    yield from _command_rows(f"cxrlt check: {n:,} images in place", usage, limit)


def table_growth(setting: Setting) -> Growth:
    def prepare(n: int) -> Callable[[], object]:
        workspace = Workspace(setting.folder / str(n))
        write_tables(workspace, n)
        return lambda: _read_all(workspace.inputs_dir(CHALLENGE))

    return growth("table", "row", _smallest(setting), prepare)


def submit_rows(setting: Setting) -> Iterator[Row]:
    """`cxrlt submit` from the test predictions of a model's five folds, each of all rows."""
    n, workspace = setting.size(ROWS, FEWEST), Workspace(setting.folder)
    logits = _predict_test(workspace, n)
    columns = [pa.array(logits.index), *(pa.array(expit(logits[name].to_numpy(float))) for name in logits)]
    table = pa.table(columns, challenge().submission_columns)
    del logits
    (least,) = race(
        lambda: pyarrow.csv.write_csv(table, setting.folder / "limit.csv"), clock=time.perf_counter
    )
    usage = run_command(["submit", RUN, "--challenge", CHALLENGE, "--root", str(setting.folder)])
    limit = Mark("pyarrow writing the same columns once", least)
    yield from _command_rows(f"cxrlt submit: {n:,} rows, {len(columns) - 1} classes", usage, limit)


def submit_growth(setting: Setting) -> Growth:
    """Of writing, validating and packing, without what reads predictions."""

    def prepare(n: int) -> Callable[[], object]:
        workspace = Workspace(setting.folder / str(n))
        write_test_table(workspace, n)
        values = expit(_logits(n, seed=0).astype(np.float64))
        ids = challenge().template("test", workspace.inputs_dir(CHALLENGE))
        frame = pd.DataFrame(values, ids, list(challenge().classes))

        def submit() -> None:
            shutil.rmtree(
                workspace.root / "submissions", ignore_errors=True
            )  # what is there is not done again
            write_submission(challenge(), workspace, RUN, "test", frame)

        return submit

    return growth("submit", "row", _smallest(setting), prepare)


def help_rows(setting: Setting) -> Iterator[Row]:
    """How long a user waits for `cxrlt --help`."""
    seconds, least = race(
        lambda: run_command(["--help"]),
        _run_empty_python,
        repeats=5,
        clock=time.perf_counter,
    )
    yield Row(
        "cxrlt --help",
        seconds,
        "s",
        target=MOST_HELP_SECONDS,
        limit=Mark("python -c pass", least),
        lower_is_better=True,
    )


def _run_empty_python() -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def _smallest(setting: Setting) -> int:
    return setting.size(ROWS // STEPS[-1], FEWEST)


def _labelled(n: int) -> pd.DataFrame:
    known = challenge()
    targets, _ = long_tailed(n, known.train_counts, known.train_images)
    table = pd.DataFrame(targets.astype(np.float32), columns=list(known.classes))
    patient = pd.Series(patients(n, n_patients(n))).map("p{:07d}".format).astype("string")
    return table.assign(patient=patient)


def _logits(n: int, seed: int) -> np.ndarray:
    return logits_for(np.zeros((n, len(challenge().classes))), np.random.default_rng(seed))


def _predict_test(workspace: Workspace, n: int) -> pd.DataFrame:
    """Folds of a small training table, and a run's predictions of n test images. Returns the last fold's."""
    known = challenge()
    write_tables(workspace, FEWEST)
    make_folds(known, workspace, N_FOLDS)
    write_test_table(workspace, n)
    ids = pd.Index(known.template("test", workspace.inputs_dir(CHALLENGE)), name="image_id")
    recipe = override_recipe(Recipe(), {"predict": {"study_mean": "off"}})
    for fold in range(N_FOLDS):
        directory = workspace.run_dir(CHALLENGE, RUN) / f"fold{fold}"
        logits = pd.DataFrame(_logits(n, fold), ids, list(known.classes))
        save_recipe(recipe, directory / "config.yaml")
        made_of = Present(known, workspace).made_of_predictions(directory)
        write_constants(directory, logits, known.task, made_of)
        meta = PredictionsMeta(fold=str(fold), split="test", made_of=made_of)
        write_predictions(directory / "test.parquet", logits, meta)
    return logits


def _read_all(inputs: Path) -> None:
    for split in challenge().splits:
        challenge().read(split, inputs)


def _read_bytes(inputs: Path) -> None:
    for name in ("train_labeled.csv", "development.csv", "test_task1.csv"):
        pyarrow.csv.read_csv(inputs / name)


def _list(folders: list[str]) -> None:
    for folder in folders:
        with os.scandir(folder) as entries:
            list(entries)


def _command_rows(stage: str, usage: Usage, limit: Mark) -> Iterator[Row]:
    yield Row(stage, usage.seconds, "s", target=MOST_SECONDS, limit=limit, lower_is_better=True)
    gigabytes = usage.peak_bytes / 1e9
    yield Row(f"{stage.partition(':')[0]}: memory", gigabytes, "GB", target=MOST_GB, lower_is_better=True)
