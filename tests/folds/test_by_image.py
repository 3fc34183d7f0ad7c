"""A split by image puts images of one patient into several folds: only on request, and readers say so."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.folds.make import extend_folds, make_folds
from cxrlt.folds.read import read_folds, report_path
from cxrlt.folds.rows import read_train_rows
from cxrlt.folds.split import split_patients
from user_errors import raises_user_error

LEAKY = {"by": "image", "allow_leakage": True}


def leaked_share(frame: pd.DataFrame) -> float:
    """Return the share of images of which another image of the patient is in another fold, one by one."""
    leaked = [
        ((frame["patient"] == patient) & (frame["fold"] != fold)).any()
        for patient, fold in zip(frame["patient"], frame["fold"], strict=True)
    ]
    return float(np.mean(leaked))


def test_it_is_refused_when_a_patient_has_several_images(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    n_shared = table["patient"].duplicated(keep=False).sum()
    with raises_user_error(
        f"{n_shared:,} of {len(table):,} images", "share their patient", "--allow-leakage"
    ):
        make_folds(challenge, workspace, by="image")
    with raises_user_error("images of one lesion", "keep lesions whole"):
        make_folds(replace(challenge, group_word="lesion"), workspace, by="image")
    with raises_user_error("--allow-leakage is for --by image only"):
        make_folds(challenge, workspace, allow_leakage=True)
    assert not workspace.folds_path("tiny").exists()


def test_the_record_has_the_share_of_images_that_leak(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    text = make_folds(challenge, workspace, n_folds=3, **LEAKY)
    folds = read_folds(challenge, workspace)
    assert folds.frame["patient"].tolist() == table["patient"].tolist()
    rows = split_patients(table.assign(patient=pd.NA), challenge.classes, 3, 0)
    assert folds.frame["fold"].equals(rows)
    share = leaked_share(folds.frame)
    assert 0.3 < share < 1
    record = json.loads(report_path(workspace.folds_path("tiny")).read_text())
    assert (record["by"], record["leaked_share"]) == ("image", pytest.approx(share))
    sentence = (
        f"split by image: {share:.0%} of the images share a patient with another fold: "
        "out-of-fold scores are too high (leakage)"
    )
    assert sentence in text
    again = make_folds(challenge, workspace, n_folds=3, **LEAKY)
    assert again.startswith("folds: already done")
    assert sentence in again
    train_rows = read_train_rows(challenge, workspace)
    assert train_rows.notes(challenge) == train_rows.for_folds([0]).notes(challenge) == [sentence]
    train_rows.require_complete("tiny")
    assert "share a lesion" in folds.leakage_notes(replace(challenge, group_word="lesion"))[0]


def test_readers_accept_a_patient_in_two_folds_only_if_the_record_allows_it(
    challenge: Challenge, workspace: Workspace
) -> None:
    make_folds(challenge, workspace, **LEAKY)
    path = report_path(workspace.folds_path("tiny"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"by": "patient"}))
    with raises_user_error("has patients in more than one fold", "cxrlt folds tiny --n-folds 5 --seed 0"):
        read_folds(challenge, workspace)
    path.write_text(json.dumps(record | {"sha256": "0" * 64}))
    with raises_user_error("was changed after it was made", "--by image --allow-leakage --force"):
        read_folds(challenge, workspace)
    path.write_text(json.dumps(record | {"by": "study"}))
    with raises_user_error("folds.json", "cxrlt folds tiny"):
        read_folds(challenge, workspace)


def test_a_split_of_the_other_kind_is_a_different_split(challenge: Challenge, workspace: Workspace) -> None:
    make_folds(challenge, workspace)
    with raises_user_error("it is by patient, not by image", "--force"):
        make_folds(challenge, workspace, **LEAKY)
    make_folds(challenge, workspace, force=True, **LEAKY)
    with raises_user_error("it is by image, not by patient", "--by image --allow-leakage", "--force"):
        make_folds(challenge, workspace)


@pytest.mark.parametrize("patients", ["unknown", "one image each"])
def test_without_groups_it_is_the_normal_split(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame, patients: str
) -> None:
    table["patient"] = pd.NA if patients == "unknown" else "p" + table.index
    table.to_csv(workspace.inputs_dir("tiny") / "train.csv")
    make_folds(challenge, workspace, by="image")
    by_image = workspace.folds_path("tiny").read_bytes()
    folds = read_folds(challenge, workspace)
    assert (folds.record.by, folds.leakage_notes(challenge)) == ("patient", [])
    assert "already done" in make_folds(challenge, workspace)
    assert "already done" in make_folds(challenge, workspace, by="image")
    make_folds(challenge, workspace, force=True)
    assert workspace.folds_path("tiny").read_bytes() == by_image


def test_new_rows_are_added_by_image_too(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    path = workspace.inputs_dir("tiny") / "train.csv"
    table[:-90].to_csv(path)
    make_folds(challenge, workspace, n_folds=3, **LEAKY)
    before = read_folds(challenge, workspace)
    table.to_csv(path)
    assert "split by image" in extend_folds(challenge, workspace)
    after = read_folds(challenge, workspace)
    assert after.frame.loc[before.frame.index].equals(before.frame)
    assert after.record.leaked_share == pytest.approx(leaked_share(after.frame))
    assert after.record.leaked_share != before.record.leaked_share
    new = after.frame.iloc[-90:]
    assert new.groupby("patient")["fold"].nunique().max() > 1


def test_an_unknown_patient_shares_no_fold(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    table["patient"] = table["patient"].mask(np.arange(len(table)) % 2 == 0)
    table.to_csv(workspace.inputs_dir("tiny") / "train.csv")
    make_folds(challenge, workspace, n_folds=3, **LEAKY)
    folds = read_folds(challenge, workspace)
    known = folds.frame[folds.frame["patient"].notna()]
    expected = leaked_share(known) * len(known) / len(table)
    assert folds.record.leaked_share == pytest.approx(expected)
