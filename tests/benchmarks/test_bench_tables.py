"""What is true of these figures however fast the machine is."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import layout, tables
from benchmarks.setting import Setting
from cxrlt.artifacts import Workspace
from cxrlt.errors import UserError
from cxrlt.inputs.check import check

pytestmark = pytest.mark.slow


@pytest.fixture
def setting(tmp_path) -> Setting:
    return Setting(tmp_path, share=0.001)


def test_the_made_up_challenge_has_no_problem_but_the_image_that_is_taken_away(tmp_path):
    workspace = Workspace(tmp_path)
    paths = layout.write_tables(workspace, 400)
    layout.write_images(workspace.images_dir(layout.CHALLENGE), paths)
    report = check(layout.challenge(), workspace)
    assert "No patient of train is in dev or test." in report
    assert report.endswith("No problem found.")
    (workspace.images_dir(layout.CHALLENGE) / paths[7]).unlink()
    with pytest.raises(UserError, match=f"1 of .* images are not in .*{paths[7]}"):
        check(layout.challenge(), workspace)


def test_a_study_has_one_patient_and_images_are_shared_out_as_in_the_official_splits():
    images = layout.draw_images(20_000)
    assert images["dicom_id"].is_unique
    assert (images.groupby("study_id")["subject_id"].nunique() == 1).all()
    assert images["study_id"].nunique() / len(images) == pytest.approx(227_000 / layout.ROWS, abs=0.03)
    assert images["subject_id"].nunique() / len(images) == pytest.approx(
        layout.PATIENTS / layout.ROWS, abs=0.01
    )
    assert layout.TRAIN + layout.DEV + layout.TEST == layout.ROWS


def test_folds_leak_no_patient_where_rows_do(setting):
    [row] = tables.folds_rows(setting)
    assert (row.unit, row.target, row.wrong) == ("rows/s", 1.0, "")
    assert row.against.name == "iterative-stratification on rows"
    assert row.note.startswith("patients in two folds: 0, theirs ")
    assert int(row.note.split("theirs ")[1].split(";")[0]) > 0


def test_folds_that_leak_are_told(setting, monkeypatch):
    def leaking(table, classes, n_folds, seed):
        return pd.Series(np.arange(len(table)) % n_folds, table.index)

    monkeypatch.setattr(tables, "split_patients", leaking)
    [row] = tables.folds_rows(setting)
    assert "patients are in two folds" in row.wrong
    assert not row.reached


def test_tables_are_read_and_checked_in_seconds_and_gigabytes(setting, capsys):
    rows = list(tables.table_rows(setting))
    assert [(row.unit, row.target) for row in rows] == [("s", 20), ("s", 20), ("GB", 2)]
    assert all(row.lower_is_better and row.value > 0 and not row.wrong for row in rows)
    assert [row.limit.name for row in rows[:2]] == [
        "pyarrow reading the same files",
        f"listing the {len(list(setting.folder.glob('inputs/*/files/*/*/*')))} folders of its images",
    ]
    assert "making 377 empty image files" in capsys.readouterr().err


def test_a_submission_is_written_in_seconds_and_gigabytes(setting):
    rows = list(tables.submit_rows(setting))
    assert [(row.unit, row.target) for row in rows] == [("s", 20), ("GB", 2)]
    assert all(row.lower_is_better and row.value > 0 and not row.wrong for row in rows)
    written = pd.read_csv(next(setting.folder.glob("submissions/*/*/submission.csv")), index_col="dicom_id")
    assert written.shape == (377, 40)
    assert written.gt(0).all(axis=None)


def test_help_is_compared_with_an_interpreter_that_does_nothing(setting):
    [row] = tables.help_rows(setting)
    assert (row.unit, row.target, row.lower_is_better) == ("s", 0.5, True)
    assert row.limit.name == "python -c pass"
    assert min(row.value, row.limit.value) > 0


@pytest.mark.parametrize("name", ["folds", "table", "submit"])
def test_growth_is_measured_up_to_the_full_size(setting, name):
    growth = getattr(tables, f"{name}_growth")(setting)
    assert (growth.stage, growth.unit) == (name, "row")
    assert growth.sizes == (200, 400, 800, 1600)
    assert all(seconds > 0 for seconds in growth.seconds)
