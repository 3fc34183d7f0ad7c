import numpy as np
import pandas as pd
import pytest

from cxrlt.calibration.calibrate import calibrate
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.folds.make import read_folds
from cxrlt.reports.score_table import calibration_table, leaderboard_table, score_table
from cxrlt.submissions.evaluate import evaluate, leaderboard
from tiny import CLASSES, SimulatedRuns, make_simulated_runs

pytestmark = pytest.mark.slow


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    runs = make_simulated_runs(tmp_path_factory.mktemp("root"))
    runs.add_run("model", skill=2)
    return runs


def test_a_score_table_shows_other_summaries_of_the_oof_score(runs: SimulatedRuns) -> None:
    evaluation = evaluate(runs.challenge, runs.workspace, "model", n_draws=20)
    text = score_table(evaluation)
    assert f"raw logits pooled {evaluation.raw_pooled:.4f}" in text
    assert f"mean over folds {evaluation.mean_over_folds:.4f}" in text
    spread = np.std([fold["mAP"] for fold in evaluation.per_fold])
    assert f"s.d. {spread:.4f}" in text


def test_numbers_are_aligned_with_their_headings(runs: SimulatedRuns) -> None:
    lines = score_table(evaluate(runs.challenge, runs.workspace, "model", n_draws=20)).splitlines()
    heading = next(line for line in lines if line.startswith("class "))
    first = lines[lines.index(heading) + 1]
    end = heading.index("AP") + 2
    assert first[end - 1] == "]"
    assert first[heading.index("positives") + len("positives") - 1].isdigit()


def test_groups_without_classes_and_undefined_values_print_no_nan(runs: SimulatedRuns) -> None:
    path = runs.workspace.inputs_dir("csv") / "train.csv"
    pd.read_csv(path).assign(Hernia=0).to_csv(path, index=False)
    assert "nan" not in score_table(evaluate(runs.challenge, runs.workspace, "model", n_draws=20))
    assert "nan" not in leaderboard_table(leaderboard(runs.challenge, runs.workspace, n_draws=20))


def test_a_calibration_table_shows_every_variant_and_threshold(runs: SimulatedRuns) -> None:
    report = calibrate(runs.challenge, runs.workspace, "model", n_draws=20)
    text = calibration_table(report)
    assert f"model on csv: {report.calibration.method}, the simplest within noise of the best" in text
    for variant, score in report.variants.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{variant} ")]
        assert f"{score.ranking:.4f}" in line
        assert all(f"{figure.value:.4f}" in line for figure in score.metrics.values())
    gained = report.variants["f1"].differences["mF1@.5"]
    assert f"{gained.value:+.4f} [{gained.low:+.4f}, {gained.high:+.4f}]" in text
    assert f"{report.calibration.thresholds['Hernia']:.4f}" in text
    forced = calibrate(runs.challenge, runs.workspace, "model", method="temperature", n_draws=20)
    assert "temperature, as requested" in calibration_table(forced)


@pytest.mark.filterwarnings("error")
def test_folds_without_defined_metrics_print_no_nan_and_no_warning(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    runs = make_simulated_runs(tmp_path_factory.mktemp("root"))
    path = runs.workspace.inputs_dir("csv") / "train.csv"
    table, fold_of = pd.read_csv(path), read_folds(runs.challenge, runs.workspace).frame["fold"]
    first = (table["image"].map(fold_of) == 0).astype(int)
    table.assign(**dict.fromkeys(CLASSES, first)).to_csv(path, index=False)
    for name in ("one", "two"):
        runs.add_run(name, skill=2)
    arguments = runs.challenge, runs.workspace
    evaluation = evaluate(*arguments, "one", n_draws=20)
    assert evaluation.undefined == ()
    texts = [
        score_table(evaluation),
        leaderboard_table(leaderboard(*arguments, n_draws=20)),
        calibration_table(calibrate(*arguments, "one", n_draws=20)),
        str(make_ensemble(*arguments, "both", ["one", "two"])),
    ]
    assert not [text for text in texts if "nan" in text or "inf" in text]
    assert "mean over folds - (-, -, -; s.d. -)" in texts[0]
