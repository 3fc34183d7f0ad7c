import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxrlt.errors import UserError
from cxrlt.submissions import write
from cxrlt.submissions.write import IncompleteError, submission_rows, write_csv, write_submission
from cxrlt.system.locks import LOCK
from five_images import CLASSES, IDS


def submission_csv(challenge, ids, probabilities) -> bytes:
    file = io.BytesIO()
    write_csv(file, challenge, submission_rows(challenge, ids, probabilities))
    return file.getvalue()


def read_back(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content), index_col="dicom_id")


def test_rows_and_columns_have_the_templates_order(challenge, workspace, probabilities):
    written = write_submission(challenge, workspace, "mine", "test", probabilities)
    straight = written.csv_path.read_bytes(), written.zip_path.read_bytes()
    turned = probabilities.iloc[[3, 1, 4, 0, 2], [2, 0, 1]].assign(Goiter=0.5)
    turned.loc["not asked for"] = 0.5
    again = write_submission(challenge, workspace, "other", "test", turned)
    assert (again.csv_path.read_bytes(), again.zip_path.read_bytes()) == straight
    frame = read_back(straight[0])
    assert list(frame.index) == IDS
    assert list(frame.columns) == list(CLASSES)
    assert np.allclose(frame, probabilities, rtol=1e-11, atol=0)


@pytest.mark.parametrize("logit", [-80, -20, -8, -0.1, 0.1, 5, 12.9])
def test_neighbouring_float32_logits_are_still_apart_in_the_file(challenge, logit):
    logits = np.nextafter(np.float32(logit), np.float32([-100, logit, 100]))
    frame = pd.DataFrame({name: expit(logits.astype(np.float64)) for name in CLASSES}, index=[*"abc"])
    read = read_back(submission_csv(challenge, [*"abc"], frame))
    assert (np.diff(read["Mass"]) > 0).all()
    assert np.allclose(read, frame, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1, 1e-3, 1e-11, 1e-30, 1e-300, 1e6, -1])
def test_values_have_at_most_12_significant_digits_and_are_those_nearest_to_the_predictions(challenge, scale):
    values = np.random.default_rng(0).random((200, len(CLASSES))) * scale
    values[:4] = [[0.0] * 3, [scale] * 3, [scale / 3] * 3, [scale * (1 - 2**-53)] * 3]
    ids = [f"i{n}" for n in range(len(values))]
    frame = pd.DataFrame(values, index=ids, columns=list(CLASSES))
    text = pd.read_csv(io.BytesIO(submission_csv(challenge, ids, frame)), dtype=str, index_col="dicom_id")
    digits = [
        cell.split("e")[0].replace("-", "").replace(".", "").strip("0") for cell in text.to_numpy().flat
    ]
    assert max(map(len, digits)) == 12
    assert np.allclose(text.astype(float), values, rtol=5.001e-12, atol=0)


def test_ids_are_quoted_where_they_must_be_and_nothing_else_is(challenge, probabilities):
    plain = submission_csv(challenge, IDS, probabilities)
    assert plain.startswith(b"dicom_id,Mass,No Finding,Round(ed) Atelectasis\nc,0.")
    assert b'"' not in plain
    ids = ['a "b", c', *IDS[1:]]
    odd = submission_csv(challenge, ids, probabilities.set_axis(ids))
    assert read_back(odd).index.tolist() == ids


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


def test_a_zip_that_does_not_hold_the_validated_bytes_is_not_written(
    challenge, workspace, probabilities, monkeypatch
):
    whole, other = write._pack, workspace.root / "other.csv"
    other.write_text("dicom_id\n")
    monkeypatch.setattr(write, "_pack", lambda path, contents: whole(path, {"submission.csv": other}))
    with pytest.raises(UserError, match=r"submission.zip was not written, because its CSV has other bytes"):
        write_submission(challenge, workspace, "mine", "test", probabilities)
    assert files_in(workspace.submission_dir("five", "mine")) == []


def test_the_zip_has_only_the_csv_and_its_bytes_depend_on_nothing_else(challenge, workspace, probabilities):
    written = write_submission(challenge, workspace, "mine", "test", probabilities)
    with zipfile.ZipFile(written.zip_path) as archive:
        [member] = archive.infolist()
        assert archive.read("submission.csv") == written.csv_path.read_bytes()
    assert member.date_time == (1980, 1, 1, 0, 0, 0)
    assert member.external_attr >> 16 == 0o644


def test_the_same_predictions_leave_a_submission_as_it_is_and_others_replace_it(
    challenge, workspace, probabilities
):
    first = write_submission(challenge, workspace, "mine", "test", probabilities)
    before = first.zip_path.stat().st_mtime_ns
    again = write_submission(challenge, workspace, "mine", "test", probabilities)
    assert again.unchanged
    assert "already done" in str(again)
    assert again.zip_path.stat().st_mtime_ns == before
    other = write_submission(challenge, workspace, "mine", "test", probabilities / 2)
    assert not other.unchanged
    assert np.allclose(read_back(other.csv_path.read_bytes()), probabilities / 2)


def test_dev_and_test_have_files_of_their_own(challenge, workspace, probabilities):
    write_submission(challenge, workspace, "mine", "test", probabilities)
    write_submission(challenge, workspace, "mine", "dev", probabilities)
    folder = workspace.submission_dir("five", "mine")
    assert files_in(folder) == [
        "submission.csv",
        "submission.zip",
        "submission_dev.csv",
        "submission_dev.zip",
    ]


def test_rows_without_a_prediction_are_named_and_nothing_is_written(challenge, workspace, probabilities):
    probabilities.loc["a", "Mass"] = np.nan
    with pytest.raises(IncompleteError, match="2 of the template's 5 ids have no prediction: a, d"):
        write_submission(challenge, workspace, "mine", "test", probabilities.drop(index="d"))
    assert not workspace.submission_dir("five", "mine").exists()


def test_ids_that_differ_from_the_table_only_in_spelling_are_named(challenge, workspace, probabilities):
    with pytest.raises(IncompleteError, match=r"1 of them differs only in spelling .* 'a' here, 'A' there"):
        write_submission(challenge, workspace, "mine", "test", probabilities.rename(index={"a": "A"}))


def test_a_missing_class_or_a_repeated_id_is_an_error(challenge, workspace, probabilities):
    with pytest.raises(UserError, match=r"lack classes of five: Round\(ed\) Atelectasis"):
        write_submission(challenge, workspace, "mine", "test", probabilities.iloc[:, :2])
    with pytest.raises(UserError, match="duplicate ids: c"):
        write_submission(challenge, workspace, "mine", "test", probabilities.loc[[*IDS, "c"]])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p * 8 - 4, "look like logits"),
        (lambda p: p * 0 + 0.5, "Every row has the same value"),
        (lambda p: (p > p.median()).astype(float), "Only 0 and 1"),
    ],
)
def test_what_the_validator_refuses_is_not_written(challenge, workspace, probabilities, change, sentence):
    with pytest.raises(UserError, match=rf"submission\.csv was not written.*{sentence}"):
        write_submission(challenge, workspace, "mine", "test", change(probabilities))
    assert files_in(workspace.submission_dir("five", "mine")) == []
