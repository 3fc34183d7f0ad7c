"""Properties of these benchmarks on any machine."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import synthetic_challenge, tables
from benchmarks.config import BenchmarkConfig
from cxrlt.artifacts import Workspace
from cxrlt.errors import UserError
from cxrlt.inputs.check import check

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path) -> BenchmarkConfig:
    return BenchmarkConfig(tmp_path, scale=0.001)


def test_the_synthetic_challenge_has_no_problem_until_an_image_is_removed(tmp_path):
    workspace = Workspace(tmp_path)
    paths = synthetic_challenge.write_tables(workspace, 400)
    synthetic_challenge.write_images(workspace.images_dir(synthetic_challenge.CHALLENGE), paths)
    report = check(synthetic_challenge.load_challenge(), workspace)
    assert "No patient of train is in dev or test." in report
    assert report.endswith("No problem found.")
    (workspace.images_dir(synthetic_challenge.CHALLENGE) / paths[7]).unlink()
    with pytest.raises(UserError, match=f"1 of .* images are not in .*{paths[7]}"):
        check(synthetic_challenge.load_challenge(), workspace)


def test_a_study_has_one_patient_and_images_are_shared_out_as_in_the_official_splits():
    images = synthetic_challenge.make_image_table(20_000)
    assert images["dicom_id"].is_unique
    assert (images.groupby("study_id")["subject_id"].nunique() == 1).all()
    assert images["study_id"].nunique() / len(images) == pytest.approx(
        227_000 / synthetic_challenge.ROWS, abs=0.03
    )
    assert images["subject_id"].nunique() / len(images) == pytest.approx(
        synthetic_challenge.PATIENTS / synthetic_challenge.ROWS, abs=0.01
    )
    assert (
        synthetic_challenge.TRAIN + synthetic_challenge.DEV + synthetic_challenge.TEST
        == synthetic_challenge.ROWS
    )


def test_folds_leak_no_patient_where_rows_do(config):
    [row] = tables.measure_folds(config)
    assert (row.unit, row.target, row.error) == ("rows/s", 1.0, "")
    assert row.baseline.name == "iterative-stratification on rows"
    assert row.note.startswith("patients in two folds: 0, theirs ")
    assert int(row.note.split("theirs ")[1].split(";")[0]) > 0


def test_folds_that_leak_are_reported(config, monkeypatch):
    def leaking(table, classes, n_folds, seed):
        return pd.Series(np.arange(len(table)) % n_folds, table.index)

    monkeypatch.setattr(tables, "split_patients", leaking)
    [row] = tables.measure_folds(config)
    assert "patients are in two folds" in row.error
    assert not row.meets_target


def test_tables_are_read_and_checked_in_seconds_and_gigabytes(config, capsys):
    rows = list(tables.measure_table(config))
    assert [(row.unit, row.target) for row in rows] == [("s", 20), ("s", 20), ("GB", 2)]
    assert all(row.lower_is_better and row.value > 0 and not row.error for row in rows)
    assert [row.limit.name for row in rows[:2]] == [
        "pyarrow reading the same files",
        f"listing the {len(list(config.folder.glob('inputs/*/files/*/*/*')))} folders of its images",
    ]
    assert "writing 377 empty image files" in capsys.readouterr().err


def test_a_submission_is_written_in_seconds_and_gigabytes(config):
    rows = list(tables.measure_submit(config))
    assert [(row.unit, row.target) for row in rows] == [("s", 20), ("GB", 2)]
    assert all(row.lower_is_better and row.value > 0 and not row.error for row in rows)
    written = pd.read_csv(next(config.folder.glob("submissions/*/*/submission.csv")), index_col="dicom_id")
    assert written.shape == (377, 40)
    assert written.gt(0).all(axis=None)


def test_help_is_compared_with_an_interpreter_that_does_nothing(config):
    [row] = tables.measure_help(config)
    assert (row.unit, row.target, row.lower_is_better) == ("s", 0.5, True)
    assert row.limit.name == "python -c pass"
    assert min(row.value, row.limit.value) > 0


@pytest.mark.parametrize("name", ["folds", "table", "submit"])
def test_growth_is_measured_up_to_the_full_size(config, name):
    measure_scaling = getattr(tables, f"measure_{name}_scaling")(config)
    assert (measure_scaling.stage, measure_scaling.unit) == (name, "row")
    assert measure_scaling.sizes == (200, 400, 800, 1600)
    assert all(seconds > 0 for seconds in measure_scaling.seconds)
