import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrlt import cli
from cxrlt.errors import UserError
from cxrlt.submissions.score import score_file
from cxrlt.submissions.submit import submit
from cxrlt.submissions.validate import validate
from tiny import CLASSES


@pytest.fixture
def truth(pair, tmp_path):
    return pair.write_truth(tmp_path / "truth.csv")


@pytest.mark.parametrize("container", ["csv_path", "zip_path"])
def test_the_score_of_a_file_agrees_with_scikit_learn(pair, truth, container):
    written = submit(pair.challenge, pair.workspace, "one")
    evaluation = score_file(getattr(written, container), truth, pair.challenge, pair.workspace)
    labels = pd.read_csv(truth, index_col="image")
    scores = pd.read_csv(written.csv_path, index_col="image").loc[labels.index]
    for score in evaluation.classes:
        expected = labels[score.name], scores[score.name]
        assert score.metrics["AP"].value == pytest.approx(average_precision_score(*expected), abs=1e-9)
        assert score.metrics["AUROC"].value == pytest.approx(roc_auc_score(*expected), abs=1e-9)
    assert evaluation.overall.metrics["mAP"].value == pytest.approx(
        np.mean([s.metrics["AP"].value for s in evaluation.classes])
    )


def test_columns_and_rows_in_any_order_score_the_same(pair, truth, tmp_path):
    written = submit(pair.challenge, pair.workspace, "one")
    turned = tmp_path / "turned.csv"
    frame = pd.read_csv(written.csv_path, dtype=str)
    frame.iloc[::-1, [3, 0, 2, 1]].to_csv(turned, index=False)
    first, second = (
        score_file(path, truth, pair.challenge, pair.workspace) for path in (written.csv_path, turned)
    )
    assert second.overall == first.overall


def test_patients_are_those_of_the_challenges_table_and_rows_without_one(pair, truth, tmp_path):
    path = submit(pair.challenge, pair.workspace, "one").csv_path
    assert score_file(path, truth, pair.challenge, pair.workspace).n_patients == 60
    labels = pd.read_csv(truth).replace(r"^test", "elsewhere", regex=True)
    labels.to_csv(tmp_path / "other.csv", index=False)
    frame = pd.read_csv(path).replace(r"^test", "elsewhere", regex=True)
    frame.to_csv(tmp_path / "mine.csv", index=False)
    elsewhere = score_file(tmp_path / "mine.csv", tmp_path / "other.csv", pair.challenge, pair.workspace)
    assert elsewhere.n_patients is None
    assert elsewhere.n_rows == len(labels)


def test_a_templates_own_name_for_the_ids_is_that_of_the_submission(pair, truth):
    challenge = replace(pair.challenge, template_id="Id")
    path = submit(challenge, pair.workspace, "two").csv_path
    assert list(pd.read_csv(path).columns) == ["Id", *challenge.classes]
    assert "valid" in validate(path, challenge, "test", pair.workspace)
    assert score_file(path, truth, challenge, pair.workspace).n_rows == len(pd.read_csv(truth))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda frame: frame.iloc[3:], "lacks rows of the truth"),
        (lambda frame: frame.drop(columns="Mass"), "lacks classes of csv: Mass"),
        (lambda frame: frame.rename(columns={"image": "id"}), "no column 'image'"),
        (lambda frame: pd.concat([frame, frame[:1]]), "duplicate ids"),
        (lambda frame: frame.assign(Mass="x"), "rows without a probability"),
        (
            lambda frame: frame.assign(image=frame["image"].str.upper()),
            r"lacks rows .* differ only in spelling .* 'test\S+' here, 'TEST\S+' there",
        ),
    ],
)
def test_what_a_file_lacks_is_named(pair, truth, tmp_path, change, sentence):
    frame = pd.read_csv(submit(pair.challenge, pair.workspace, "one").csv_path)
    change(frame).to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(UserError, match=sentence):
        score_file(tmp_path / "mine.csv", truth, pair.challenge, pair.workspace)


def test_the_command_prints_the_table_of_scores(pair, truth, capsys):
    path = submit(pair.challenge, pair.workspace, "one").csv_path
    root = ["--root", str(pair.workspace.root)]
    cli.main(["score", str(path), "--truth", str(truth), "--challenge", "csv", *root])
    out = capsys.readouterr().out
    assert out.startswith("submission.csv on csv truth.csv: ")
    assert all(name in out for name in CLASSES)


def test_two_files_are_compared_on_the_same_patients(pair, truth, tmp_path, capsys):
    path = submit(pair.challenge, pair.workspace, "one").csv_path
    reversed_ranks = pd.read_csv(path)
    reversed_ranks[CLASSES] = 1 - reversed_ranks[CLASSES]
    reversed_ranks.to_csv(tmp_path / "worse.csv", index=False)
    root = ["--challenge", "csv", "--root", str(pair.workspace.root), "--truth", str(truth)]
    cli.main(["score", str(path), *root, "--against", str(path)])
    assert f"mAP minus {path}: +0.0000 [+0.0000, +0.0000]" in capsys.readouterr().out
    cli.main(["score", str(path), *root, "--against", str(tmp_path / "worse.csv")])
    line = capsys.readouterr().out.splitlines()[-1]
    ahead, low, high = map(float, re.findall(r"[+-][0-9.]+", line.replace(str(tmp_path), "")))
    assert 0 < low <= ahead <= high
