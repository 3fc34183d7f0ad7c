"""Submissions to challenges with single-label tasks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from cxrlt import cli
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError
from cxrlt.submissions.evaluate import evaluate
from cxrlt.submissions.score import score_file
from cxrlt.submissions.submit import submit
from cxrlt.submissions.validate import validate_submission
from five_images import FIVE_IMAGES, IDS
from tiny import CLASSES, SimulatedRuns, make_simulated_runs

ONE_OF_THREE = replace(FIVE_IMAGES, task="single_label", metric="macro-F1")
HEADER = "dicom_id,Mass,No Finding,Round(ed) Atelectasis"


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    pair = make_simulated_runs(tmp_path_factory.mktemp("single"), n_patients=60, task="single_label")
    pair.add_run("one", skill=1.5, seed=1)
    pair.add_run("two", skill=1.0, seed=2)
    make_ensemble(pair.challenge, pair.workspace, "both", ["one", "two"])
    return pair


@pytest.fixture
def truth(single, tmp_path):
    return single.write_truth(tmp_path / "truth.csv")


def read(path) -> pd.DataFrame:
    return pd.read_csv(path, index_col="image")


@pytest.mark.parametrize("name", ["one", "both"])
def test_a_submission_is_the_softmax_of_what_is_evaluated(single, name):
    frame = read(submit(single.challenge, single.workspace, name).csv_path)
    logits = load_final_logits(name, "test", single.current_data).logits.loc[frame.index]
    np.testing.assert_allclose(frame, softmax(logits, axis=1), rtol=1e-10)
    np.testing.assert_allclose(frame.sum(axis=1), 1, atol=1e-10)


def test_classes_that_a_challenge_lacks_take_no_share_of_its_probabilities(single):
    fewer = {name: single.challenge.train_counts[name] for name in CLASSES[:2]}
    blank = pd.DataFrame(0.5, single.table("test").index.rename("image"), list(fewer))
    blank.to_csv(single.workspace.inputs_dir("csv") / "template.csv")
    spec = single.challenge.spec.model_copy(update={"test_template": "template.csv"})
    target = replace(single.challenge, train_counts=fewer, spec=spec)
    written = submit(target, single.workspace, "one", origin=single.challenge)
    frame, whole = read(written.csv_path), read(submit(single.challenge, single.workspace, "one").csv_path)
    np.testing.assert_allclose(frame.sum(axis=1), 1, atol=1e-10)
    shares = whole[list(fewer)].div(whole[list(fewer)].sum(axis=1), axis=0)
    np.testing.assert_allclose(frame, shares.loc[frame.index], rtol=1e-9)


def test_a_multi_label_challenge_gets_the_probabilities_of_a_single_label_run(single):
    target = replace(single.challenge, task="multi_label", metric="mAUROC")
    frames = [
        read(submit(challenge, single.workspace, "one", origin=single.challenge).csv_path)
        for challenge in (single.challenge, target)
    ]
    pd.testing.assert_frame_equal(*frames)


def test_the_score_of_a_file_agrees_with_scikit_learn_and_with_evaluate(single, truth):
    path = submit(single.challenge, single.workspace, "one").csv_path
    evaluation = score_file(path, truth, single.challenge, single.workspace)
    labels = read(truth)
    probabilities = read(path).loc[labels.index]
    true, predicted = labels.to_numpy().argmax(axis=1), probabilities.to_numpy().argmax(axis=1)
    expected = {
        "macro-F1": f1_score(true, predicted, average="macro"),
        "accuracy": accuracy_score(true, predicted),
        "mAUROC": roc_auc_score(true, probabilities, multi_class="ovr"),
    }
    known = evaluate(single.challenge, single.workspace, "one", "test", n_draws=20)
    for metric, value in expected.items():
        assert evaluation.overall.metrics[metric].value == pytest.approx(value, abs=1e-9)
        assert known.overall.metrics[metric].value == pytest.approx(value, abs=1e-6)
    assert evaluation.n_patients == 60


def test_a_foreign_file_need_not_hold_probabilities_that_sum_to_1(single, truth, tmp_path):
    path = submit(single.challenge, single.workspace, "one").csv_path
    frame = read(path)
    hard = pd.DataFrame(np.eye(3)[frame.to_numpy().argmax(axis=1)], frame.index, frame.columns)
    scores = []
    for number, foreign in enumerate((frame, frame / 3, hard)):
        foreign.to_csv(tmp_path / f"{number}.csv")
        ids = single.challenge.template("test", single.workspace.inputs_dir("csv"))
        assert validate_submission(tmp_path / f"{number}.csv", single.challenge, ids) == []
        evaluation = score_file(tmp_path / f"{number}.csv", truth, single.challenge, single.workspace)
        scores.append(evaluation.overall.metrics["macro-F1"].value)
    assert scores[0] == scores[1] == scores[2]


def test_a_truth_with_two_classes_in_a_row_is_an_error(single, truth):
    labels = read(truth)
    labels.iloc[5] = [1, 1, 0]
    labels.to_csv(truth)
    path = submit(single.challenge, single.workspace, "one").csv_path
    with pytest.raises(UserError, match=r"row 7 \(Effusion, Mass\)"):
        score_file(path, truth, single.challenge, single.workspace)


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ([f"{n % 2},{1 - n % 2},0" for n in range(5)], None),
        (["1,0,0"] * 5, "All rows have the same values"),
        ([f"{n - 2.5},.{n}1,-{n}.2" for n in range(5)], "look like logits (apply a softmax)"),
    ],
)
def test_a_constant_class_is_valid_but_identical_rows_are_not(tmp_path, cells, sentence):
    path = tmp_path / "mine.csv"
    rows = [f"{image_id},{values}" for image_id, values in zip(IDS, cells, strict=True)]
    path.write_text("\n".join([HEADER, *rows, ""]))
    problems = validate_submission(path, ONE_OF_THREE, IDS)
    assert len(problems) == (sentence is not None)
    if sentence:
        assert sentence in problems[0]


def test_the_commands_submit_validate_and_score(single, truth, capsys):
    root = ["--challenge", "csv", "--root", str(single.workspace.root)]
    cli.main(["submit", "both", *root])
    path = single.workspace.submission_dir("csv", "both") / "submission.csv"
    cli.main(["validate", str(path), *root])
    capsys.readouterr()
    cli.main(["score", str(path), "--truth", str(truth), *root])
    out = capsys.readouterr().out
    assert out.startswith("submission.csv on csv truth.csv: ")
    assert all(word in out for word in ("macro-F1", "kappa", "precision", *CLASSES))
