import json
import os

import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.folds.make import extend_folds, make_folds
from cxrlt.folds.read import read_folds
from cxrlt.system.atomic_files import sha256_of
from user_errors import raises_user_error

AGAIN = "cxrlt folds tiny"
REPORTS = {
    "empty": b"",
    "cut short": b'{"n_folds": 5, "seed": 0, "sha',
    "a list": b"[1, 2]",
    "a number": b"5",
    "nothing": b"null",
    "a key missing": b'{"n_folds": 5, "seed": 0}',
    "text for a number": b'{"n_folds": "5", "seed": 0, "sha256": "HASH"}',
    "true for a number": b'{"n_folds": true, "seed": 0, "sha256": "HASH"}',
    "a fraction": b'{"n_folds": 5.5, "seed": 0, "sha256": "HASH"}',
    "no number": b'{"n_folds": NaN, "seed": 0, "sha256": "HASH"}',
    "infinite": b'{"n_folds": 1e999, "seed": 0, "sha256": "HASH"}',
    "too few folds": b'{"n_folds": 1, "seed": 0, "sha256": "HASH"}',
    "a hash that is none": b'{"n_folds": 5, "seed": 0, "sha256": "x"}',
    "a number for a hash": b'{"n_folds": 5, "seed": 0, "sha256": 1}',
    "other folds than in the file": b'{"n_folds": 4, "seed": 0, "sha256": "HASH"}',
    "more folds than in the file": b'{"n_folds": 6, "seed": 0, "sha256": "HASH"}',
    "a billion folds": b'{"n_folds": 1000000000, "seed": 0, "sha256": "HASH"}',
    "an overlong number": b'{"n_folds": ' + b"9" * 5000 + b', "seed": 0, "sha256": "HASH"}',
    "deep": b"[" * 100_000,
    "latin-1": b'{"n_folds": 5, "seed": 0, "sha256": "\xe4"}',
    "utf-16": b"\xff\xfe{\0}\0",
    "a NUL character": b'{"n_folds": 5, "seed": 0, "sha256": "HASH"}\0',
    "packed": b"\x1f\x8b\x08",
}


@pytest.mark.parametrize("content", REPORTS.values(), ids=REPORTS)
def test_a_damaged_report_is_an_error_with_the_fix(content, challenge, workspace):
    make_folds(challenge, workspace)
    path = workspace.folds_path("tiny")
    path.with_suffix(".json").write_bytes(content.replace(b"HASH", sha256_of(path).encode()))
    with pytest.raises(UserError, match=f"{AGAIN}.* --force") as raised:
        read_folds(challenge, workspace)
    assert "folds." in str(raised.value)
    assert len(str(raised.value)) < 1000


def swapped(text: str) -> str:
    """Move one of a patient's two images to another fold."""
    header, *lines = text.splitlines()
    patients = [line.split(",")[1] for line in lines]
    place = next(k for k, patient in enumerate(patients) if patients.count(patient) > 1)
    image, patient, fold = lines[place].split(",")
    lines[place] = f"{image},{patient},{(int(fold) + 1) % 5}"
    return "\n".join([header, *lines, ""])


SPLITS = {
    "a patient in two folds": (swapped, "has patients in more than one fold: p0"),
    "an image twice": (lambda t: t + t.splitlines()[-1] + "\n", "has an image more than once: i0"),
    "a fold too many": (lambda t: t + "new,new,5\n", "should have the folds 0 to 4, not 0, 1, 2, 3, 4, 5"),
    "a negative fold": (lambda t: t + "new,new,-1\n", "should have the folds 0 to 4"),
    "a fold with a point": (lambda t: t + "new,new,1.0\n", "should have the folds 0 to 4"),
    "a fold that is no number": (lambda t: t + "new,new,nan\n", "should have the folds 0 to 4"),
    "no fold": (lambda t: t + "new,new,\n", "should have the folds 0 to 4"),
    "a fold less": (lambda t: t.replace(",4\n", ",3\n"), "should have the folds 0 to 4, not 0, 1, 2, 3"),
    "a column less": (
        lambda t: t.replace("image_id,patient,fold", "image_id,fold"),
        "not a complete CSV file",
    ),
    "a column renamed": (lambda t: t.replace("patient", "patients", 1), "should have the columns image_id, "),
    "columns in another order": (lambda t: t.replace("image_id,patient", "patient,image_id"), "should have"),
    "a row cut short": (lambda t: t[: t.rindex(",")], "not a complete CSV file"),
    "a header alone": (lambda t: t.splitlines()[0] + "\n", "a header but no rows"),
    "empty": (lambda t: "", "is empty"),
    "a NUL character": (lambda t: t + "\0", "NUL character"),
    "an open quotation mark": (lambda t: t + 'new,new,"0', "quoted wrongly"),
}


@pytest.mark.parametrize(("change", "sentence"), SPLITS.values(), ids=SPLITS)
def test_an_invalid_split_is_an_error_even_with_the_right_hash(change, sentence, challenge, workspace):
    make_folds(challenge, workspace)
    path = workspace.folds_path("tiny")
    path.write_text(change(path.read_text()))
    with raises_user_error("folds.csv", f"{AGAIN} --n-folds 5 --seed 0 --force"):
        read_folds(challenge, workspace)
    report = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(report | {"sha256": sha256_of(path)}))
    with pytest.raises(UserError, match=f"{sentence}.*{AGAIN} --n-folds 5 --seed 0 --force"):
        read_folds(challenge, workspace)


@pytest.mark.parametrize("name", ["folds.csv", "folds.json"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link"])
def test_a_folder_or_pipe_in_place_of_the_split_is_a_user_error(name, kind, challenge, workspace):
    make_folds(challenge, workspace)
    path = workspace.folds_path("tiny").with_name(name)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("gone")
    with pytest.raises(UserError, match=f"{name} is a .*{AGAIN}.*--force"):
        read_folds(challenge, workspace)


def test_rows_without_patient_can_be_in_any_fold(challenge, workspace, table):
    table.assign(patient="").to_csv(workspace.inputs_dir("tiny") / "train.csv")
    make_folds(challenge, workspace)
    assert read_folds(challenge, workspace).frame["patient"].isna().all()


def test_weights_stay_valid_after_the_split_is_extended(challenge, workspace, table):
    make_folds(challenge, workspace)
    identity = read_folds(challenge, workspace).identity
    provenance = {"split": identity.split, "rows": identity.rows(1)}
    new = table[:9].assign(patient="new").rename("new {}".format)

    def was_training_split() -> list[bool]:
        folds = read_folds(challenge, workspace)
        return [folds.was_training_split(provenance, fold) for fold in (1, "1", 0, 2, 3, 4)]

    assert was_training_split() == [True, True, False, False, False, False]
    pd.concat([table, new]).to_csv(workspace.inputs_dir("tiny") / "train.csv", index_label="image_id")
    extend_folds(challenge, workspace)
    folds = read_folds(challenge, workspace)
    now = {"split": folds.identity.split, "rows": folds.identity.rows(1)}
    assert now["rows"] != provenance["rows"]
    assert folds.parts_changed_by_extend(provenance, 1) == ["split", "rows"]
    assert folds.with_current_digests(provenance | {"labels": "x"}, 1) == now | {"labels": "x"}
    assert (
        folds.parts_changed_by_extend(now, 1) == folds.parts_changed_by_extend({"split": "0" * 64}, 1) == []
    )
    assert was_training_split() == [True, True, False, False, False, False]
    make_folds(challenge, workspace, seed=1, force=True)
    assert not any(was_training_split())
