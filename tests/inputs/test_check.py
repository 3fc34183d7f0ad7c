from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from cxrlt.folds.make import make_folds
from cxrlt.inputs.check import check, expected_leakage
from cxrlt.inputs.images import ImageSource
from user_errors import raises_user_error

pytestmark = pytest.mark.slow


def csv(workspace):
    return get_challenge("csv", workspace.inputs_dir("csv"))


def line(report, start):
    return next(line.split() for line in report.splitlines() if line.startswith(start))


def test_the_report_counts_images_patients_views_and_positives(csv_workspace):
    workspace = csv_workspace(train=["p1", "p1", "p2"], dev=["p3"], test=["p4", "p5"])
    report = check(csv(workspace), workspace)
    #                        images found labelled patients studies frontal lateral unknown
    assert line(report, "train") == ["train", "3", "3", "3", "2", "3", "0", "0", "3"]
    assert line(report, "dev") == ["dev", "1", "1", "1", "1", "1", "0", "0", "1"]
    assert line(report, "Mass") == ["Mass", "head", "1", "1", "0", "1"]
    assert "No patient of train is in dev or test." in report
    assert report.endswith("No problem found.")


def test_every_problem_is_reported_in_one_run(csv_workspace):
    workspace = csv_workspace(train=["p1", "p2"], dev=["p1"], test=["p4"])
    folder = workspace.inputs_dir("csv")
    challenge = csv(workspace)
    (folder / "images/train1.png").unlink()
    (folder / "test.csv").write_text("image,patient,Mass\ntest0,4.0,0\n")
    with pytest.raises(UserError) as error:
        check(challenge, workspace)
    report = str(error.value)
    assert "3 problems:" in report
    assert "test.csv, column 'patient': a spreadsheet has turned ids into numbers in row 2 ('4.0')" in report
    assert "csv train: 1 of 2 images are not in" in report
    assert "1 in dev (p1); they have 1 of the 2 training images" in report
    assert line(report, "train")[1:3] == ["2", "1"]


def test_what_a_flag_allows_is_reported_but_not_a_problem(csv_workspace):
    workspace = csv_workspace(train=["p1", "p2"], dev=["p1"])
    (workspace.inputs_dir("csv") / "images/train1.png").unlink()
    report = check(csv(workspace), workspace, allow_missing=True, drop_shared_patients=True)
    assert "csv train: 1 of 2 images are not in" in report
    assert "1 in dev (p1)" in report
    assert report.endswith("No problem found.")


def test_a_missing_images_folder_is_one_problem(csv_workspace, tmp_path):
    workspace = csv_workspace(train=["p1"])
    away = Workspace(tmp_path, images=tmp_path / "away")
    with pytest.raises(UserError, match=r"1 problem:\n- The images folder .*away does not exist"):
        check(csv(workspace), away)


def test_a_template_of_another_release_is_a_problem(csv_workspace):
    workspace = csv_workspace(train=["p1"])
    folder = workspace.inputs_dir("csv")
    (folder / "sample.csv").write_text("image,Mass\nother,0\nTEST0,0\n")
    with (folder / "challenge.yaml").open("a") as file:
        file.write("test_template: sample.csv\n")
    with raises_user_error("csv test", "2 images", "TEST0, other", "1", "'TEST0'", "'test0'"):
        check(csv(workspace), workspace)


def test_missing_tables_are_all_named(tmp_path):
    with pytest.raises(UserError) as error:
        check(get_challenge("cxrlt2023"), Workspace(tmp_path))
    assert "3 problems:" in str(error.value)
    for name in ("train.csv", "development.csv", "test.csv"):
        assert f"{name} does not exist" in str(error.value)


@pytest.mark.parametrize(("label", "shown"), [("0", "0"), ("", "-")])
def test_a_class_without_positives_or_labels_is_reported_but_not_a_problem(csv_workspace, label, shown):
    workspace = csv_workspace(train=["p1", "p2", "p3"])
    for path in workspace.inputs_dir("csv").glob("*.csv"):
        header, *rows = path.read_text().splitlines()
        path.write_text("\n".join([f"{header},Hernia", *(f"{row},{label}" for row in rows)]))
    report = check(csv(workspace), workspace)
    assert "No positives in train: Hernia." in report
    assert line(report, "Hernia")[:4] == ["Hernia", "tail", "0", shown]
    assert report.endswith("No problem found.")
    assert "fewer positive patients than folds: Mass, Hernia" in make_folds(
        csv(workspace), workspace, n_folds=2
    )


def test_a_table_with_blank_labels_only_is_a_problem(csv_workspace):
    workspace = csv_workspace(train=["p1", "p2"])
    path = workspace.inputs_dir("csv") / "train.csv"
    challenge = csv(workspace)
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(row.rpartition(",")[0] + "," for row in rows)]))
    with pytest.raises(UserError, match=r"train\.csv: every label is blank"):
        check(challenge, workspace)


def test_duplicates_in_a_cache_are_reported_but_not_a_problem(csv_workspace):
    workspace = csv_workspace(train=["p1", "p2", "p3"])
    images = workspace.inputs_dir("csv") / "images"
    for grey, path in enumerate(sorted(images.glob("*.png"))):
        cv2.imwrite(str(path), np.full((8, 8), 20 * grey, np.uint8))
    for one, other in (("train0", "train1"), ("train2", "test0")):
        (images / f"{other}.png").write_bytes((images / f"{one}.png").read_bytes())
    assert "identical" not in check(csv(workspace), workspace)
    ImageSource(csv(workspace), workspace).load_all_splits(8)
    report = check(csv(workspace), workspace)
    assert "another patient: train0 = train1. Keep these patients in one fold with: cxrlt folds csv" in report
    assert "1 images of test are identical, byte for byte, to an image of train: train2 = test0." in report
    assert report.endswith("No problem found.")
    (images / "train1.png").write_bytes(b"another image, which check does not read")
    assert "train0 = train1" not in check(csv(workspace), workspace)


def test_check_changes_nothing(csv_workspace, tmp_path):
    workspace = csv_workspace(train=["p1"])
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    check(csv(workspace), workspace)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("sizes", [[1] * 30, [2] * 10 + [1] * 15, [6, 5, 3, 2, 2, 1, 1], [60], [1]])
def test_the_expected_leakage_of_a_random_split_is_what_random_splits_have(sizes):
    group = np.repeat(np.arange(len(sizes)), sizes)
    n, rng, shares = len(group), np.random.default_rng(0), []
    n_train, n_test = round(0.7 * n), max(round(0.15 * n), 1)
    for _ in range(4000 if n > 1 else 1):
        shuffled = rng.permutation(group)
        shares.append(np.isin(shuffled[n - n_test :], shuffled[: min(n_train, n - n_test)]).mean())
    assert expected_leakage(sizes) == pytest.approx(np.mean(shares), abs=0.015)


def test_what_a_random_split_by_image_would_leak_is_reported(csv_workspace):
    workspace = csv_workspace(train=["p1", "p1", "p2"])
    report = check(csv(workspace), workspace)
    # p1's two images: the other one is one of the 2 training images out of 2 others: always
    assert (
        "In a random 70/15/15 split by image, 66.7% of the test images would have their patient in train "
        "(1 of 2 patients have several images). cxrlt folds keeps patients whole."
    ) in report
    lesions = replace(csv(workspace), group_word="lesion")
    assert "their lesion in train (1 of 2 lesions have" in check(lesions, workspace)


def test_without_groups_there_is_nothing_to_leak(csv_workspace):
    workspace = csv_workspace(train=["p1", "p2", "p3"])
    assert "random 70/15/15" not in check(csv(workspace), workspace)


def test_a_random_split_of_ham10000_would_leak_35_percent(single_label_data):
    table = pd.read_csv(single_label_data / "ham10000" / "HAM10000_metadata.csv")
    assert expected_leakage(table["lesion_id"].value_counts().tolist()) == pytest.approx(0.3506, abs=1e-4)
