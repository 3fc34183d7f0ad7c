"""Rows of the training table that are new, removed or leaking since the folds were made."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import Challenge
from cxrlt.folds.make import extend_folds, make_folds
from cxrlt.folds.rows import read_train_rows
from user_errors import raises_user_error


def write_images(workspace: Workspace, ids: pd.Index) -> None:
    for image_id in ids:
        cv2.imwrite(str(workspace.images_dir("tiny") / f"{image_id}.png"), np.zeros((2, 2), np.uint8))


def test_rows_with_a_missing_image_are_new_when_it_arrives(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    write_images(workspace, table.index[::3])
    make_folds(challenge, workspace, n_folds=3, allow_missing=True)
    assert read_train_rows(challenge, workspace).new.empty
    write_images(workspace, table.index[1:8:3])
    rows = read_train_rows(challenge, workspace)
    assert rows.new.tolist() == table.index[1:8:3].tolist()
    assert rows.notes(challenge) == [
        "3 rows of the training table are not in the folds: cxrlt folds tiny --extend"
    ]
    assert "3 rows added" in extend_folds(challenge, workspace)
    assert read_train_rows(challenge, workspace).notes(challenge) == []


def test_a_patient_of_the_table_in_two_folds_is_a_leak_that_training_refuses(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    make_folds(challenge, workspace)
    fold = read_train_rows(challenge, workspace).fold
    one, other = (table["patient"][fold == number].iloc[0] for number in (0, 1))
    merged = table.assign(patient=table["patient"].replace(other, one))
    merged.to_csv(workspace.inputs_dir("tiny") / "train.csv")
    rows = read_train_rows(challenge, workspace)
    assert rows.leaking_patients == (one,)
    with raises_user_error("1 patients", "folds.csv", one, "--force"):
        rows.require_complete("tiny")
    assert "scores are too high" in rows.notes(challenge)[0]


def test_new_rows_exclude_patients_of_dev(
    challenge: Challenge, workspace: Workspace, table: pd.DataFrame
) -> None:
    with_dev = replace(challenge, splits=("train", "dev"))
    inputs = workspace.inputs_dir("tiny")
    table[:5].rename("dev {}".format).to_csv(inputs / "dev.csv", index_label="image_id")
    make_folds(with_dev, workspace, drop_shared_patients=True)
    new = table.iloc[[-1, -2, 0, -3]].rename("new {}".format)
    pd.concat([table, new]).to_csv(inputs / "train.csv", index_label="image_id")
    rows = read_train_rows(with_dev, workspace)
    assert rows.new.tolist() == new.index[[0, 1, 3]].tolist()
