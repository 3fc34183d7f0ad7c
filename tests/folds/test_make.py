import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.folds.balance import balance
from cxrlt.folds.make import extend_folds, make_folds
from cxrlt.folds.read import read_folds, report_path
from cxrlt.folds.split import split_patients
from cxrlt.inputs.cache_build import build_cache
from cxrlt.inputs.table import load_table
from cxrlt.system.atomic_files import sha256_of
from user_errors import raises_user_error


def test_folds_are_read_back_as_they_were_made(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    make_folds(challenge, workspace, n_folds=4, seed=1)
    folds, path = read_folds(challenge, workspace), workspace.folds_path("tiny")
    assert (folds.n_folds, folds.record.seed, folds.record.sha256) == (4, 1, sha256_of(path))
    assert folds.frame["fold"].equals(split_patients(table, challenge.classes, 4, 1))
    assert folds.frame["patient"].tolist() == table["patient"].tolist()
    assert json.loads(report_path(path).read_text())["patients_in_two_folds"] == 0
    assert path.read_bytes().startswith(b"image_id,patient,fold\n")


def test_the_same_split_again_changes_nothing(challenge: Challenge, workspace: Workspace) -> None:
    assert "already done" not in make_folds(challenge, workspace, n_folds=4)
    paths = [workspace.folds_path("tiny"), report_path(workspace.folds_path("tiny"))]
    before = [path.stat().st_mtime_ns for path in paths]
    assert "already done" in make_folds(challenge, workspace, n_folds=4)
    assert [path.stat().st_mtime_ns for path in paths] == before


@pytest.mark.parametrize(("n_folds", "seed"), [(5, 0), (4, 1)])
def test_a_different_split_is_an_error_that_names_both(
    challenge: Challenge, workspace: Workspace, n_folds: int, seed: int
) -> None:
    make_folds(challenge, workspace, n_folds=4, seed=0)
    with pytest.raises(UserError, match=f"4 folds with seed 0, not {n_folds} with seed {seed}.*--force"):
        make_folds(challenge, workspace, n_folds, seed)


def test_changed_rows_are_an_error_that_names_them(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    make_folds(challenge, workspace)
    table.drop("i000005").to_csv(workspace.inputs_dir("tiny") / "train.csv")
    with raises_user_error("1 rows", "i000005", "cxrlt folds tiny --extend"):
        make_folds(challenge, workspace)
    for patient in ("p99999", "a00000"):
        table.loc["i000000", "patient"] = patient
        table.to_csv(workspace.inputs_dir("tiny") / "train.csv")
        with pytest.raises(UserError, match="1 rows have another patient in the split: i000000"):
            make_folds(challenge, workspace)


def test_force_replaces_the_split_and_names_the_runs_that_no_longer_fit(
    challenge: Challenge, workspace: Workspace
) -> None:
    make_folds(challenge, workspace, n_folds=4)
    before = read_folds(challenge, workspace).record
    workspace.run_dir("tiny", "demo_resnet").mkdir()
    with pytest.raises(UserError, match="then demo_resnet must be trained again"):
        make_folds(challenge, workspace, n_folds=3)
    for n_folds in (3, 4):
        after = make_folds(challenge, workspace, n_folds=n_folds, force=True)
        assert "runs trained on the old split are refused from now on (demo_resnet)" in after
        assert read_folds(challenge, workspace).n_folds == n_folds
    assert read_folds(challenge, workspace).record == before
    assert "refused" not in make_folds(challenge, workspace, n_folds=4, force=True)


def test_a_split_changed_by_hand_is_refused(challenge: Challenge, workspace: Workspace) -> None:
    make_folds(challenge, workspace)
    path = workspace.folds_path("tiny")
    path.write_text(path.read_text().replace(",0\n", ",1\n", 1))
    with raises_user_error("folds.csv", "cxrlt folds tiny --n-folds 5 --seed 0 --force"):
        read_folds(challenge, workspace)


def test_a_missing_split_is_an_error_that_names_the_command(
    challenge: Challenge, workspace: Workspace
) -> None:
    with pytest.raises(UserError, match="cxrlt folds tiny"):
        read_folds(challenge, workspace)


def test_ids_that_look_like_numbers_or_blanks_stay_text(challenge: Challenge, workspace: Workspace) -> None:
    rows = [("007", "NA"), ("1e5", "010"), ("nan", "null"), ("4", "1.0")]
    lines = ["image_id,patient,study,view,path,Effusion,Mass,Hernia"]
    lines += [f"{image},{patient},s,frontal,{image}.png,1,0,0" for image, patient in rows]
    (workspace.inputs_dir("tiny") / "train.csv").write_text("\n".join(lines))
    text = TextRows(**vars(challenge))
    make_folds(text, workspace, n_folds=2)
    frame = read_folds(text, workspace).frame
    assert list(zip(frame.index, frame["patient"], strict=True)) == rows


class TextRows(Challenge):
    """A challenge that reads its ids as strings."""

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        table = pd.read_csv(inputs_dir / f"{split}.csv", dtype=str, keep_default_na=False)
        return table.set_index("image_id").astype(dict.fromkeys(self.classes, np.float32))

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        return self.read(split, inputs_dir).index.tolist()


def test_a_data_set_without_patients_is_split_by_rows_and_read_back_without_them(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    table.assign(patient=pd.NA).to_csv(workspace.inputs_dir("tiny") / "train.csv")
    made = make_folds(challenge, workspace)
    assert "no patient column" in made and "not known without patients" in made
    assert read_folds(challenge, workspace).frame["patient"].isna().all()
    assert "already done" in make_folds(challenge, workspace)


def test_with_allow_missing_only_rows_whose_image_exists_are_split(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    there = table.index[::3]
    for image_id in there:
        cv2.imwrite(str(workspace.images_dir("tiny") / f"{image_id}.png"), np.zeros((2, 2), np.uint8))
    make_folds(challenge, workspace, n_folds=3, allow_missing=True)
    assert read_folds(challenge, workspace).frame.index.tolist() == there.tolist()


@pytest.fixture
def nih(tmp_path: Path, nih_data: Path) -> Workspace:
    """Return a new root that uses the real tables."""
    return Workspace(tmp_path, inputs=nih_data)


def test_the_nih_training_rows_are_split_evenly(nih: Workspace) -> None:
    make_folds(get_challenge("nihlt"), nih, n_folds=5, seed=0)
    figures = json.loads(report_path(nih.folds_path("nihlt")).read_text())
    assert figures["n_rows"] == 78_506
    assert figures["patients_in_two_folds"] == 0
    assert figures["label_cv_mean"] <= 0.005
    assert figures["label_cv_worst"] <= 0.05
    assert figures["size_spread"] <= 0.005
    assert (figures["absent"], figures["scarce"]) == ([], [])


def test_all_nih_rows_at_once_are_split_evenly_too(nih: Workspace) -> None:
    challenge = get_challenge("nihlt")
    splits = [challenge.read(split, nih.inputs_dir("nihlt")) for split in ("train", "dev", "test")]
    table = pd.concat(splits)
    figures = balance(table, challenge.classes, split_patients(table, challenge.classes, 5, 0))
    assert figures["n_rows"] == 112_120
    assert figures["patients_in_two_folds"] == 0
    assert figures["label_cv_mean"] <= 0.006


def decode_all(challenge: Challenge, workspace: Workspace, same: dict[str, str]) -> None:
    """Write a different image per row, or that of another row (`same`: by id), and cache them."""
    table = challenge.read("train", workspace.inputs_dir("tiny"))
    images = workspace.images_dir("tiny")
    for image_id in table.index:
        number = table.index.get_loc(same.get(image_id, image_id))
        cv2.imwrite(str(images / f"{image_id}.png"), np.full((8, 8), number, np.uint8))
    table = load_table(challenge, "train", workspace)
    build_cache(table, 8, workspace.cache_dir(), "tiny", "train", images, workers=1)


def test_patients_who_share_an_image_stay_merged_after_extend(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    path = workspace.inputs_dir("tiny") / "train.csv"
    table[table["patient"] < "p00020"].to_csv(path)
    table = table[table["patient"] < "p00025"]
    first = table.groupby("patient").head(1).reset_index().set_index("patient")["image_id"]
    same = dict.fromkeys(first[["p00007", "p00022"]], first["p00003"])
    decode_all(challenge, workspace, same)
    make_folds(challenge, workspace, n_folds=3, group_duplicates=True)
    before = read_folds(challenge, workspace).frame
    assert set(before.loc[table.index[table["patient"].isin(["p00003", "p00007"])], "patient"]) == {"p00003"}
    table.to_csv(path)
    with pytest.raises(UserError, match="training images are not in it yet"):
        extend_folds(challenge, workspace)
    decode_all(challenge, workspace, same)
    extend_folds(challenge, workspace)
    after = read_folds(challenge, workspace).frame
    assert after.loc[before.index].equals(before)
    assert set(after.loc[table.index[table["patient"] == "p00022"], "patient"]) == {"p00003"}
    assert set(after["patient"]) == set(table["patient"]) - {"p00007", "p00022"}
    merged = table.assign(patient=table["patient"].replace("p00011", "p00010"))
    merged.to_csv(path)
    n_rows = table["patient"].isin(["p00010", "p00011"]).sum()
    with pytest.raises(UserError, match=f"{n_rows} rows have another patient in the split"):
        extend_folds(challenge, workspace)
