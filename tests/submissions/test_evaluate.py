import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError
from cxrlt.predictions.store import read_predictions
from cxrlt.recipe import PredictConfig, Recipe
from cxrlt.reports.score_table import leaderboard_table, score_table
from cxrlt.submissions.evaluate import evaluate, leaderboard
from tiny import SimulatedRuns, edit_parquet, remove_negative_labels

pytestmark = pytest.mark.slow

OFF = Recipe(predict=PredictConfig(study_mean="off"))


def args(runs: SimulatedRuns, *rest: object) -> tuple:
    return runs.challenge, runs.workspace, *rest


def per_fold(runs: SimulatedRuns, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels and logits of every fold, straight from the files."""
    table = runs.table("train")[list(runs.challenge.classes)]
    parts = []
    for fold in range(3):
        path = runs.workspace.run_dir("csv", name) / f"fold{fold}" / "oof.parquet"
        logits = read_predictions(path, runs.challenge.classes)[0]
        parts.append((table.loc[logits.index].to_numpy(), logits.to_numpy(np.float64)))
    return parts


def test_the_oof_score_is_average_precision_over_pooled_standardised_logits(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2, drift=2, recipe=OFF)
    parts = per_fold(runs, "model")
    labels = np.concatenate([part for part, _ in parts])

    def standardised(logits: np.ndarray) -> np.ndarray:
        low, median, high = np.percentile(logits, [25, 50, 75], axis=0)
        return (logits - median) / (high - low)

    pooled = np.concatenate([standardised(logits) for _, logits in parts])
    raw = np.concatenate([logits for _, logits in parts])
    evaluation = evaluate(*args(runs, "model"), n_draws=20)
    assert [score.metrics["AP"].value for score in evaluation.classes] == pytest.approx(
        average_precision_score(labels, pooled, average=None), abs=1e-9
    )
    assert [score.metrics["AUROC"].value for score in evaluation.classes] == pytest.approx(
        roc_auc_score(labels, pooled, average=None), abs=1e-9
    )
    assert evaluation.overall.metrics["mAP"].value == pytest.approx(
        average_precision_score(labels, pooled), abs=1e-9
    )
    assert evaluation.raw_pooled == pytest.approx(average_precision_score(labels, raw), abs=1e-9)
    folds = [average_precision_score(fold_labels, logits) for fold_labels, logits in parts]
    assert [fold["mAP"] for fold in evaluation.per_fold] == pytest.approx(folds, abs=1e-9)
    assert evaluation.mean_over_folds == pytest.approx(np.mean(folds), abs=1e-9)


def test_folds_on_different_scales_lower_the_raw_pooled_score_but_not_the_defined_one(
    runs: SimulatedRuns,
) -> None:
    runs.add_run("even", skill=2, recipe=OFF)
    runs.add_run("drifting", skill=2, drift=5, recipe=OFF)
    even, drifting = (evaluate(*args(runs, name), n_draws=20) for name in ("even", "drifting"))
    assert drifting.overall.metrics["mAP"].value == pytest.approx(even.overall.metrics["mAP"].value, abs=1e-6)
    assert drifting.raw_pooled < even.raw_pooled - 0.05


def test_positives_prevalence_and_lift_are_those_of_the_rows(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2)
    evaluation = evaluate(*args(runs, "model"), n_draws=20)
    mass, table = evaluation.classes[1], runs.table("train")
    assert (mass.name, mass.n_positive, mass.n_known) == ("Mass", table["Mass"].sum(), len(table))
    assert mass.lift == pytest.approx(mass.metrics["AP"].value / table["Mass"].mean())
    assert evaluation.n_patients == table["patient"].nunique()


def test_groups_are_those_of_the_challenge(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2)
    evaluation = evaluate(*args(runs, "model"), n_draws=50)
    for group, names in runs.challenge.groups.items():
        values = [score.metrics["AP"].value for score in evaluation.classes if score.name in names]
        assert evaluation.groups[group].n_classes == len(names)
        if names:
            assert evaluation.groups[group].metrics["mAP"].value == pytest.approx(np.mean(values))
    interval = evaluation.overall.metrics["mAP"]
    assert interval.low < interval.value < interval.high


def test_a_class_without_positives_is_named_and_left_out_of_the_mean(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2, recipe=OFF)
    path = runs.workspace.inputs_dir("csv") / "train.csv"
    pd.read_csv(path).assign(Hernia=0).to_csv(path, index=False)
    evaluation = evaluate(*args(runs, "model"), n_draws=20)
    assert evaluation.undefined == ("Hernia",)
    assert evaluation.overall.n_classes == 2
    assert evaluation.overall.metrics["mAP"].value == pytest.approx(
        np.mean([s.metrics["AP"].value for s in evaluation.classes[:2]])
    )
    assert "as they lack positives or negatives: Hernia" in score_table(evaluation)


def test_a_class_with_positives_and_blanks_only_is_out_of_every_mean(runs: SimulatedRuns) -> None:
    remove_negative_labels(runs, "Effusion")
    runs.add_run("model", skill=2, recipe=OFF)
    evaluation = evaluate(*args(runs, "model"), n_draws=20)
    assert evaluation.undefined == ("Effusion",)
    parts = [(labels[:, 1:], logits[:, 1:]) for labels, logits in per_fold(runs, "model")]
    labels, raw = (np.concatenate(each) for each in zip(*parts, strict=True))
    assert evaluation.raw_pooled == pytest.approx(average_precision_score(labels, raw), abs=1e-9)
    folds = [average_precision_score(*part) for part in parts]
    assert evaluation.mean_over_folds == pytest.approx(np.mean(folds), abs=1e-9)


def test_a_class_that_has_only_positives_in_a_fold_is_out_of_that_folds_mean(runs: SimulatedRuns) -> None:
    remove_negative_labels(runs, "Effusion", fold=1)
    runs.add_run("model", skill=2, recipe=OFF)
    evaluation = evaluate(*args(runs, "model"), n_draws=20)
    assert evaluation.undefined == ()
    labels, logits = per_fold(runs, "model")[1]
    expected = average_precision_score(labels[:, 1:], logits[:, 1:])
    assert evaluation.per_fold[1]["mAP"] == pytest.approx(expected, abs=1e-9)


def test_scores_are_written_as_json_that_keeps_other_splits(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2)
    for split in ("oof", "dev"):
        evaluate(*args(runs, "model", split), n_draws=20)
    path = runs.workspace.submission_dir("csv", "model") / "score.json"
    scores = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert set(scores) == {"oof", "dev"}
    interval = scores["dev"]["overall"]["metrics"]["mAP"]
    assert 0 < interval["low"] < interval["value"] < 1
    assert scores["oof"]["classes"][0]["prevalence"] > 0


def test_dev_is_scored_on_the_logits_that_would_be_submitted(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2)
    logits = load_final_logits("model", "dev", runs.current_data).logits
    labels = runs.table("dev").loc[logits.index, list(runs.challenge.classes)]
    evaluation = evaluate(*args(runs, "model", "dev"), n_draws=20)
    assert evaluation.overall.metrics["mAP"].value == pytest.approx(
        average_precision_score(labels, logits), abs=1e-9
    )
    assert evaluation.per_fold == ()


def test_a_split_without_labels_is_an_error_that_names_the_way_to_score_it(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2)
    path = runs.workspace.inputs_dir("csv") / "test.csv"
    pd.read_csv(path).drop(columns=list(runs.challenge.classes)).to_csv(path, index=False)
    with pytest.raises(UserError, match="cxrlt score FILE --truth CSV"):
        evaluate(*args(runs, "model", "test"))


def test_rows_without_a_prediction_are_left_out_and_counted(runs: SimulatedRuns) -> None:
    run_dir = runs.add_run("model", skill=2, recipe=OFF)
    edit_parquet(run_dir / "fold0" / "oof.parquet", lambda logits: logits.iloc[4:].reindex(logits.index))
    evaluation = evaluate(*args(runs, "model"), n_draws=20)
    n_rows = len(runs.table("train"))
    assert evaluation.n_rows == n_rows - 4
    assert f"4 of {n_rows} rows have no prediction" in score_table(evaluation)


def test_a_run_that_chose_its_epoch_on_the_scored_rows_is_called_optimistic(runs: SimulatedRuns) -> None:
    runs.add_run("best", skill=2, recipe=Recipe(predict=PredictConfig(weights="best")))
    runs.add_run("last", skill=2)
    assert "optimistic" in score_table(evaluate(*args(runs, "best"), n_draws=20))
    assert "optimistic" not in score_table(evaluate(*args(runs, "last"), n_draws=20))
    make_ensemble(*args(runs, "both", ["best", "last"]))
    assert "optimistic" in score_table(evaluate(*args(runs, "both"), n_draws=20))


def test_the_leaderboard_ranks_everything_trained_with_paired_differences(runs: SimulatedRuns) -> None:
    runs.add_run("poor", skill=1, seed=1)
    runs.add_run("good", skill=3, seed=2)
    runs.add_run("unfinished", skill=2, splits=("dev",))
    make_ensemble(*args(runs, "both", ["good", "poor"]))
    board = leaderboard(*args(runs), n_draws=100)
    names = [evaluation.name for evaluation in board.evaluations]
    assert set(names) == {"good", "both", "poor"}
    assert names[-1] == "poor"
    assert list(board.skipped) == ["unfinished"]
    behind = board.differences[-1]
    values = [evaluation.overall.metrics["mAP"].value for evaluation in board.evaluations]
    assert behind.value == pytest.approx(values[0] - values[-1])
    assert behind.low > 0
    assert board.differences[0].high == 0
    text = leaderboard_table(board)
    assert "not scored: unfinished" in text
    assert text.index("poor") > text.index("good")


def test_the_leaderboard_compares_runs_on_the_rows_that_all_of_them_predict(runs: SimulatedRuns) -> None:
    run_dir = runs.add_run("holes", skill=2, seed=1)
    runs.add_run("whole", skill=2, seed=2)
    edit_parquet(run_dir / "fold1" / "oof.parquet", lambda logits: logits.iloc[40:].reindex(logits.index))
    a, b = leaderboard(*args(runs), n_draws=20).evaluations
    assert a.n_rows == b.n_rows < len(runs.table("train"))


def test_folders_that_only_group_runs_are_not_on_the_leaderboard(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2)
    runs.add_run("compare-losses/bce-seed0", skill=2)
    (runs.workspace.folds_dir("csv") / "notes").mkdir()
    board = leaderboard(*args(runs), n_draws=20)
    assert [evaluation.name for evaluation in board.evaluations] == ["model"]
    assert board.skipped == {}
    inner = evaluate(*args(runs, "compare-losses/bce-seed0"), n_draws=20)
    assert inner.overall == board.evaluations[0].overall


def test_the_leaderboard_of_dev_scores_what_would_be_submitted(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2)
    (evaluation,) = leaderboard(*args(runs, "dev"), n_draws=20).evaluations
    assert (
        evaluation.overall.metrics["mAP"].value
        == evaluate(*args(runs, "model", "dev"), n_draws=20).overall.metrics["mAP"].value
    )


def test_a_leaderboard_of_nothing_is_an_error_that_names_the_command(runs: SimulatedRuns) -> None:
    with pytest.raises(UserError, match="cxrlt train RECIPE --challenge csv"):
        leaderboard(*args(runs))
