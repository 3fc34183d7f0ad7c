"""Benchmarks of tables, folds, submissions and `--help` at the size of CXR-LT 2024."""

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

from benchmarks.config import BenchmarkConfig
from benchmarks.measurement import Measurement, ReferenceValue
from benchmarks.scaling import SIZE_MULTIPLES, ScalingResult, measure_scaling
from benchmarks.synthetic import make_logits, make_long_tailed, make_patients
from benchmarks.synthetic_challenge import (
    CHALLENGE,
    ROWS,
    load_challenge,
    n_patients,
    write_images,
    write_tables,
    write_test_table,
)
from benchmarks.timing import Usage, measure_command, time_interleaved
from cxrlt.artifacts import Workspace
from cxrlt.folds.balance import balance
from cxrlt.folds.make import make_folds
from cxrlt.folds.split import split_patients
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.standardise import write_constants
from cxrlt.predictions.store import PredictionsMeta, write_predictions
from cxrlt.recipe import Recipe, override_recipe, save_recipe
from cxrlt.submissions.write import write_submission

N_FOLDS = 5
MIN_ROWS = 200
MAX_SECONDS, MAX_GB, MAX_HELP_SECONDS = 20.0, 2.0, 0.5
RUN = "five-folds"


def measure_folds(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Compare the patient-level split with iterative stratification of rows, which leaks patients."""
    n = config.size(ROWS, MIN_ROWS)
    table, classes = _label_table(n), load_challenge().classes
    targets = table[list(classes)].to_numpy()
    results: dict[str, pd.Series] = {}

    def ours() -> None:
        results["ours"] = split_patients(table, classes, N_FOLDS, seed=0)

    def by_rows() -> None:
        fold = pd.Series(0, index=table.index)
        splitter = MultilabelStratifiedKFold(n_splits=N_FOLDS, shuffle=True, random_state=0)
        for number, (_, rows) in enumerate(splitter.split(targets, targets)):
            fold.iloc[rows] = number
        results["theirs"] = fold

    seconds, others = time_interleaved(ours, by_rows, repeats=2)
    mine, theirs = (balance(table, classes, results[name]) for name in ("ours", "theirs"))
    leaks = mine["patients_in_two_folds"]
    yield Measurement(
        f"folds: {n:,} rows of {mine['n_patients']:,} patients",
        n / seconds,
        "rows/s",
        ReferenceValue("iterative-stratification on rows", n / others),
        target=1.0,
        note=f"patients in two folds: {leaks:,}, theirs {theirs['patients_in_two_folds']:,}; "
        f"CV of label rates: {mine['label_cv_mean']:.4f}, theirs {theirs['label_cv_mean']:.4f}",
        error=f"{leaks:,} patients are in two folds" if leaks else "",
    )


def measure_folds_scaling(config: BenchmarkConfig) -> ScalingResult:
    """Measure the split into folds at growing numbers of rows."""

    def prepare(n: int) -> Callable[[], object]:
        table = _label_table(n)
        return lambda: split_patients(table, load_challenge().classes, N_FOLDS, seed=0)

    return measure_scaling("folds", "row", _smallest(config), prepare)


def measure_table(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Measure reading the tables of all splits, and `cxrlt check` with all image files."""
    n, workspace = config.size(ROWS, MIN_ROWS), Workspace(config.folder)
    paths = write_tables(workspace, n)
    inputs = workspace.inputs_dir(CHALLENGE)
    seconds, limit_seconds = time_interleaved(lambda: _read_all(inputs), lambda: _read_bytes(inputs))
    yield Measurement(
        f"tables: {n:,} rows of three splits read",
        seconds,
        "s",
        target=MAX_SECONDS,
        limit=ReferenceValue("pyarrow reading the same files", limit_seconds),
        lower_is_better=True,
    )
    print(f"bench: writing {n:,} empty image files (removed later) …", file=sys.stderr, flush=True)
    write_images(workspace.images_dir(CHALLENGE), paths)
    folders = [str(inputs / folder) for folder in paths.str.rpartition("/")[0].unique()]
    (limit_seconds,) = time_interleaved(lambda: _list_folders(folders), repeats=2, clock=time.perf_counter)
    usage = measure_command(["check", CHALLENGE, "--root", str(config.folder)])
    limit = ReferenceValue(f"listing the {len(folders):,} folders of its images", limit_seconds)
    yield from _command_measurements(f"cxrlt check: {n:,} images", usage, limit)


def measure_table_scaling(config: BenchmarkConfig) -> ScalingResult:
    """Measure reading tables at growing numbers of rows."""

    def prepare(n: int) -> Callable[[], object]:
        workspace = Workspace(config.folder / str(n))
        write_tables(workspace, n)
        return lambda: _read_all(workspace.inputs_dir(CHALLENGE))

    return measure_scaling("table", "row", _smallest(config), prepare)


def measure_submit(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Measure `cxrlt submit` of a model with five folds, each with predictions of all rows."""
    n, workspace = config.size(ROWS, MIN_ROWS), Workspace(config.folder)
    logits = _predict_test(workspace, n)
    columns = [pa.array(logits.index), *(pa.array(expit(logits[name].to_numpy(float))) for name in logits)]
    table = pa.table(columns, load_challenge().submission_columns)
    del logits
    (limit_seconds,) = time_interleaved(
        lambda: pyarrow.csv.write_csv(table, config.folder / "limit.csv"), clock=time.perf_counter
    )
    usage = measure_command(["submit", RUN, "--challenge", CHALLENGE, "--root", str(config.folder)])
    limit = ReferenceValue("pyarrow writing the same columns once", limit_seconds)
    yield from _command_measurements(f"cxrlt submit: {n:,} rows, {len(columns) - 1} classes", usage, limit)


def measure_submit_scaling(config: BenchmarkConfig) -> ScalingResult:
    """Measure writing, validating and zipping, without reading predictions."""

    def prepare(n: int) -> Callable[[], object]:
        workspace = Workspace(config.folder / str(n))
        write_test_table(workspace, n)
        values = expit(_logits(n, seed=0).astype(np.float64))
        ids = load_challenge().template("test", workspace.inputs_dir(CHALLENGE))
        frame = pd.DataFrame(values, ids, list(load_challenge().classes))

        def submit() -> None:
            # an existing submission would be skipped
            shutil.rmtree(workspace.root / "submissions", ignore_errors=True)
            write_submission(load_challenge(), workspace, RUN, "test", frame)

        return submit

    return measure_scaling("submit", "row", _smallest(config), prepare)


def measure_help(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Measure how long `cxrlt --help` takes."""
    seconds, limit_seconds = time_interleaved(
        lambda: measure_command(["--help"]),
        _run_empty_python,
        repeats=5,
        clock=time.perf_counter,
    )
    yield Measurement(
        "cxrlt --help",
        seconds,
        "s",
        target=MAX_HELP_SECONDS,
        limit=ReferenceValue("python -c pass", limit_seconds),
        lower_is_better=True,
    )


def _run_empty_python() -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def _smallest(config: BenchmarkConfig) -> int:
    return config.size(ROWS // SIZE_MULTIPLES[-1], MIN_ROWS)


def _label_table(n: int) -> pd.DataFrame:
    challenge = load_challenge()
    targets, _ = make_long_tailed(n, challenge.train_counts, challenge.train_images)
    table = pd.DataFrame(targets.astype(np.float32), columns=list(challenge.classes))
    patient = pd.Series(make_patients(n, n_patients(n))).map("p{:07d}".format).astype("string")
    return table.assign(patient=patient)


def _logits(n: int, seed: int) -> np.ndarray:
    return make_logits(np.zeros((n, len(load_challenge().classes))), np.random.default_rng(seed))


def _predict_test(workspace: Workspace, n: int) -> pd.DataFrame:
    """Write folds and a run's test predictions (n rows). Return the logits of the last fold."""
    challenge = load_challenge()
    write_tables(workspace, MIN_ROWS)
    make_folds(challenge, workspace, N_FOLDS)
    write_test_table(workspace, n)
    ids = pd.Index(challenge.template("test", workspace.inputs_dir(CHALLENGE)), name="image_id")
    recipe = override_recipe(Recipe(), {"predict": {"study_mean": "off"}})
    for fold in range(N_FOLDS):
        directory = workspace.run_dir(CHALLENGE, RUN) / f"fold{fold}"
        logits = pd.DataFrame(_logits(n, fold), ids, list(challenge.classes))
        save_recipe(recipe, directory / "config.yaml")
        provenance = CurrentData(challenge, workspace).predictions_provenance(directory)
        write_constants(directory, logits, challenge.task, provenance)
        meta = PredictionsMeta(fold=str(fold), split="test", provenance=provenance)
        write_predictions(directory / "test.parquet", logits, meta)
    return logits


def _read_all(inputs: Path) -> None:
    for split in load_challenge().splits:
        load_challenge().read(split, inputs)


def _read_bytes(inputs: Path) -> None:
    for name in ("train_labeled.csv", "development.csv", "test_task1.csv"):
        pyarrow.csv.read_csv(inputs / name)


def _list_folders(folders: list[str]) -> None:
    for folder in folders:
        with os.scandir(folder) as entries:
            list(entries)


def _command_measurements(stage: str, usage: Usage, limit: ReferenceValue) -> Iterator[Measurement]:
    yield Measurement(stage, usage.seconds, "s", target=MAX_SECONDS, limit=limit, lower_is_better=True)
    gigabytes = usage.peak_memory_bytes / 1e9
    yield Measurement(
        f"{stage.partition(':')[0]}: memory", gigabytes, "GB", target=MAX_GB, lower_is_better=True
    )
