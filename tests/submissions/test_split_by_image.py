"""Every output that shows a score of a split by image says how much of it leaks."""

import json
from pathlib import Path

import pytest

from cxrlt.calibration.calibrate import calibrate
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.folds.make import make_folds
from cxrlt.reports.score_table import calibration_table, leaderboard_table, score_table
from cxrlt.submissions.evaluate import evaluate, leaderboard
from cxrlt.submissions.record import RECORD
from cxrlt.submissions.submit import submit
from tiny import SimulatedRuns, make_simulated_runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    runs = make_simulated_runs(tmp_path_factory.mktemp("leaky"), n_patients=60)
    make_folds(runs.challenge, runs.workspace, 3, by="image", allow_leakage=True, force=True)
    runs.add_run("one", skill=2.0, seed=1)
    runs.add_run("two", skill=1.5, seed=2)
    return runs


def test_scores_ensembles_calibrations_and_submissions_repeat_it(leaky: SimulatedRuns) -> None:
    args = (leaky.challenge, leaky.workspace)
    (sentence,) = leaky.current_data.folds.leakage_notes(leaky.challenge)
    assert sentence.startswith("split by image: ")
    fitted, skipped = (make_ensemble(*args, "both", ("one", "two")).text for _ in range(2))
    assert "already done" in skipped
    for text in (fitted, skipped):
        assert sentence in text
    for name in ("one", "both"):
        for split in ("oof", "test"):
            assert sentence in score_table(evaluate(*args, name, split, n_draws=10))
        scores = json.loads((leaky.workspace.submission_dir("csv", name) / "score.json").read_text())
        assert [sentence in scores[split]["notes"] for split in ("oof", "test")] == [True, True]
    board = leaderboard_table(leaderboard(*args, n_draws=10))
    assert board.count(sentence) == 3
    assert sentence in calibration_table(calibrate(*args, "both", n_draws=10))


def test_the_record_beside_a_submission_repeats_it(leaky: SimulatedRuns) -> None:
    (sentence,) = leaky.current_data.folds.leakage_notes(leaky.challenge)
    written = submit(leaky.challenge, leaky.workspace, "one", "test")
    assert f"note: {sentence}" in str(written)
    folder: Path = leaky.workspace.submission_dir("csv", "one")
    assert json.loads((folder / RECORD).read_text())["test"]["notes"] == [sentence]
