"""A challenge with 200 classes: tables may have a row per class, but no line lists all of them."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.calibration.calibrate import calibrate
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.challenges.columns import read_template_ids
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.errors import UserError
from cxrlt.folds.make import make_folds
from cxrlt.inputs.check import check
from cxrlt.inputs.contact_sheet import write_contact_sheet
from cxrlt.predictions.predict import uses_flip
from cxrlt.predictions.scoring import score_frame
from cxrlt.recipe import Recipe
from cxrlt.reports.score_table import calibration_table, leaderboard_table, score_table
from cxrlt.submissions.evaluate import evaluate, leaderboard
from cxrlt.submissions.submit import submit
from cxrlt.submissions.validate import validate_submission
from tiny import SimulatedRuns

N_CLASSES, N_ROWS, N_FOLDS = 200, 40, 3
MAX_LINE_LENGTH = 400
CLASSES = [f"Finding of the left side {number}" for number in range(N_CLASSES)]
SPEC = "train: train.csv\ntest: test.csv\nid: id\npatient: patient\nsuffix: .png\nimages: images\n"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Challenge, Workspace]:
    """Write a challenge whose classes range from always positive to never positive."""
    workspace = Workspace(tmp_path_factory.mktemp("many"))
    inputs, rng = workspace.inputs_dir("csv"), np.random.default_rng(0)
    labels = rng.random((N_ROWS, N_CLASSES)) < np.linspace(1.2, -0.2, N_CLASSES)
    (inputs / "images").mkdir(parents=True)
    rows = [[f"a{i}", f"p{i // 2}", *labels[i].astype(int)] for i in range(N_ROWS)]
    with (inputs / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "patient", *CLASSES], *rows])
    (inputs / "test.csv").write_text("id\nt0\nt1\n")
    (inputs / "challenge.yaml").write_text(SPEC)
    for name in [*(row[0] for row in rows), "t0", "t1"]:
        cv2.imwrite(str(inputs / "images" / f"{name}.png"), rng.integers(0, 255, (8, 8)).astype(np.uint8))
    return get_challenge("csv", inputs), workspace


@pytest.fixture(scope="module")
def folds_text(many: tuple[Challenge, Workspace]) -> str:
    return make_folds(*many, N_FOLDS)


@pytest.fixture(scope="module")
def trained(many: tuple[Challenge, Workspace], folds_text: str) -> tuple[Challenge, Workspace]:
    SimulatedRuns(*many).add_run("one", skill=1, splits=("oof", "test"))
    return many


def require_short_lines(text: str) -> None:
    assert not [line for line in text.splitlines() if len(line) > MAX_LINE_LENGTH]


def test_folds_and_check_name_the_first_ten_and_how_many(
    many: tuple[Challenge, Workspace], folds_text: str
) -> None:
    report = check(*many)
    for text in (folds_text, report):
        require_short_lines(text)
        assert "in all)" in text
    assert "fewer positive patients than folds: " in folds_text


def test_scores_name_the_first_ten_excluded_classes(trained: tuple[Challenge, Workspace]) -> None:
    text = score_table(evaluate(*trained, "one", n_draws=5))
    require_short_lines(text)
    assert "excluded from means, as they lack positives or negatives: " in text
    require_short_lines(leaderboard_table(leaderboard(*trained, n_draws=5)))
    require_short_lines(calibration_table(calibrate(*trained, "one", "logistic", n_draws=5)))


def test_ensembles_and_submissions_have_short_lines_too(trained: tuple[Challenge, Workspace]) -> None:
    require_short_lines(str(make_ensemble(*trained, "alone", ["one"])))
    require_short_lines(str(submit(*trained, "alone")))


def test_error_messages_have_short_lines(trained: tuple[Challenge, Workspace], tmp_path: Path) -> None:
    challenge, _ = trained
    truth = pd.DataFrame(0.0, ["a0"], CLASSES)
    with pytest.raises(UserError, match="lacks classes") as lacking:
        score_frame(challenge, truth[CLASSES[:1]], truth)
    with pytest.raises(UserError, match="name a side") as sided:
        uses_flip(Recipe(), challenge.classes)
    path = tmp_path / "template.csv"
    truth[CLASSES[::-1]].to_csv(path, index_label=challenge.id_column)
    with pytest.raises(
        UserError, match=r"column 2 is 'Finding of the left side 199', but should be"
    ) as reversed_:
        read_template_ids(challenge, path)
    truth[CLASSES[:2]].to_csv(path, index_label=challenge.id_column)
    problems = validate_submission(path, challenge, ["a0"])
    for text in (*(str(error.value) for error in (lacking, sided, reversed_)), *problems):
        require_short_lines(text.replace(str(path), "template.csv"))


def test_a_contact_sheet_names_the_first_ten(tmp_path: Path) -> None:
    image = np.zeros((1, 8, 8), np.uint8)
    for name, labels in (("all", CLASSES), ("some", CLASSES[:11])):
        write_contact_sheet(tmp_path / f"{name}.png", image, [labels])
    heights = {name: cv2.imread(str(tmp_path / f"{name}.png")).shape[0] for name in ("all", "some")}
    assert heights["all"] == heights["some"]
