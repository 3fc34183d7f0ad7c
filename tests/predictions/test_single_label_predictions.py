"""Single-label tasks, from the logits of folds to the leaderboard."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from cxrlt.ensembles.combine import combine_constants
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.final_logits import load_final_logits, load_oof_scores
from cxrlt.ensembles.weights import read_weights
from cxrlt.errors import UserError
from cxrlt.metrics import macro_metric
from cxrlt.predictions.standardise import read_constants
from cxrlt.predictions.store import read_predictions
from cxrlt.predictions.study_mean import study_mean
from cxrlt.recipe import PredictConfig, Recipe
from cxrlt.reports.score_table import leaderboard_table, score_table
from cxrlt.submissions.evaluate import evaluate, leaderboard
from sampled_cases import sample_cases
from tiny import CLASSES, SimulatedRuns, edit_parquet, make_simulated_runs, oof_score

pytestmark = pytest.mark.slow

OFF = Recipe(predict=PredictConfig(study_mean="off"))
METRICS = ["macro-F1", "accuracy", "balanced-accuracy", "weighted-F1", "kappa", "mAUROC", "mAP"]


@pytest.fixture
def single(tmp_path: Path) -> SimulatedRuns:
    return make_simulated_runs(tmp_path, task="single_label")


def args(runs: SimulatedRuns, *rest: object) -> tuple:
    return runs.challenge, runs.workspace, *rest


def on_disk(runs: SimulatedRuns, name: str, split: str) -> list[pd.DataFrame]:
    run_dir = runs.workspace.run_dir("csv", name)
    return [read_predictions(run_dir / f"fold{fold}" / f"{split}.parquet", CLASSES)[0] for fold in range(3)]


def rescale_rows(runs: SimulatedRuns, name: str) -> None:
    """Add a constant of its own to every row's logits, which says nothing about its class."""
    for path in runs.workspace.run_dir("csv", name).glob("fold*/*.parquet"):
        constants = np.random.default_rng(0).normal(0, 20, 10_000)
        edit_parquet(path, lambda logits, c=constants: logits.add(c[: len(logits)], axis=0))


def test_no_scale_per_class_is_applied_which_would_change_the_class_of_a_row(single: SimulatedRuns) -> None:
    run_dir = single.add_run("model", skill=2, recipe=OFF)
    for fold in range(3):
        constants, _ = read_constants(run_dir / f"fold{fold}", CLASSES, made_by="")
        assert (constants.median == 0).all() and (constants.iqr == 1).all()
    logits = pd.concat(on_disk(single, "model", "oof"))
    scores = load_oof_scores("model", single.current_data)
    assert scores.raw is None
    np.testing.assert_allclose(scores.frame.loc[logits.index], log_softmax(logits.astype(float), axis=1))


def test_folds_and_members_are_averaged_as_log_probabilities(single: SimulatedRuns) -> None:
    single.add_run("a", skill=2, seed=1, recipe=OFF, drift=1)
    single.add_run("b", skill=1.5, seed=2, recipe=OFF)
    means = {}
    for name in "ab":
        folds = [log_softmax(fold.astype(float), axis=1) for fold in on_disk(single, name, "test")]
        means[name] = np.mean(folds, axis=0)
        final = load_final_logits(name, "test", single.current_data).logits
        np.testing.assert_allclose(softmax(final, axis=1), softmax(means[name], axis=1), atol=1e-9)
    weights = make_ensemble(*args(single, "both", ["a", "b"])).weights
    table = single.table("test")
    expected = pd.DataFrame(sum(weights.final.shares[name] * means[name] for name in "ab"), table.index)
    assert weights.study_mean.final == 0.8
    expected = study_mean(expected, table)
    final = load_final_logits("both", "test", single.current_data).logits
    np.testing.assert_allclose(softmax(final, axis=1), softmax(expected, axis=1), atol=1e-9)


def test_a_constant_added_to_a_rows_logits_changes_nothing(single: SimulatedRuns) -> None:
    single.add_run("a", skill=2, seed=1)
    single.add_run("b", skill=1, seed=2)
    make_ensemble(*args(single, "both", ["a", "b"]))
    before = [evaluate(*args(single, "both", split), n_draws=20) for split in ("oof", "test")]
    rescale_rows(single, "b")
    make_ensemble(*args(single, "both", ["a", "b"]))
    after = [evaluate(*args(single, "both", split), n_draws=20) for split in ("oof", "test")]
    for one, other in zip(before, after, strict=True):
        for metric in METRICS:
            assert one.overall.metrics[metric].value == pytest.approx(
                other.overall.metrics[metric].value, abs=1e-4
            )


@pytest.mark.parametrize("split", ["oof", "dev"])
def test_an_evaluation_agrees_with_scikit_learn(single: SimulatedRuns, split: str) -> None:
    single.add_run("model", skill=1.5, recipe=OFF)
    files = on_disk(single, "model", split)
    if split == "oof":
        ids, probabilities = pd.concat(files).index, softmax(pd.concat(files).astype(float), axis=1)
    else:
        mean = sum(log_softmax(file.astype(float), axis=1) for file in files) / 3
        ids, probabilities = files[0].index, softmax(mean, axis=1)
    table = single.table("train" if split == "oof" else split).loc[ids]
    true, predicted = table[CLASSES].to_numpy().argmax(axis=1), probabilities.argmax(axis=1)
    evaluation = evaluate(*args(single, "model", split), n_draws=20)
    expected = {
        "macro-F1": f1_score(true, predicted, average="macro"),
        "accuracy": accuracy_score(true, predicted),
        "balanced-accuracy": balanced_accuracy_score(true, predicted),
        "weighted-F1": f1_score(true, predicted, average="weighted"),
        "kappa": cohen_kappa_score(true, predicted, weights="quadratic"),
        "mAUROC": roc_auc_score(true, probabilities, multi_class="ovr"),
    }
    for metric, value in expected.items():
        assert evaluation.overall.metrics[metric].value == pytest.approx(value, abs=1e-9), metric
    by_class = precision_recall_fscore_support(true, predicted)
    for c, score in enumerate(evaluation.classes):
        found = [score.metrics[name].value for name in ("precision", "recall", "F1")]
        assert [*found, score.n_positive] == pytest.approx([values[c] for values in by_class])
    interval = evaluation.overall.metrics["macro-F1"]
    assert interval.low < interval.value < interval.high


def test_the_other_oof_scores_use_the_challenges_metric(single: SimulatedRuns) -> None:
    single.add_run("model", skill=1.5, recipe=OFF)
    evaluation = evaluate(*args(single, "model"), n_draws=20)
    labels = single.table("train")[CLASSES]
    folds = [
        f1_score(
            labels.loc[part.index].to_numpy().argmax(axis=1), part.to_numpy().argmax(axis=1), average="macro"
        )
        for part in on_disk(single, "model", "oof")
    ]
    assert [fold["macro-F1"] for fold in evaluation.per_fold] == pytest.approx(folds)
    assert evaluation.mean_over_folds == pytest.approx(np.mean(folds))
    assert evaluation.raw_pooled is None
    path = single.workspace.submission_dir("csv", "model") / "score.json"
    scores = json.loads(path.read_text(), parse_constant=pytest.fail)["oof"]
    assert scores["overall"]["metrics"]["kappa"]["value"] == evaluation.overall.metrics["kappa"].value
    assert set(scores["classes"][0]["metrics"]) == {"F1", "precision", "recall", "AUROC", "AP"}


def test_groups_of_classes_have_their_mean_f1(single: SimulatedRuns) -> None:
    single.add_run("model", skill=1.5)
    evaluation = evaluate(*args(single, "model"), n_draws=20)
    assert [len(names) for names in single.challenge.groups.values()] == [2, 1, 0]
    for group, names in single.challenge.groups.items():
        values = [score.metrics["F1"].value for score in evaluation.classes if score.name in names]
        if names:
            assert evaluation.groups[group].metrics["macro-F1"].value == pytest.approx(np.mean(values))


@pytest.mark.parametrize("metric", sample_cases(METRICS, every=3))
def test_selection_and_scores_follow_the_challenges_metric(single: SimulatedRuns, metric: str) -> None:
    runs = replace(single, challenge=replace(single.challenge, metric=metric))
    for name, skill, seed in (("a", 1.5, 1), ("b", 1.2, 2), ("useless", 0, 3)):
        runs.add_run(name, skill=skill, seed=seed)
    weights = make_ensemble(*args(runs, "all", ["a", "b", "useless"]), kind="greedy").weights
    rows = runs.current_data.rows
    frames = {name: load_oof_scores(name, runs.current_data).frame for name in weights.members}
    labels = rows.table[CLASSES].to_numpy(float)

    def value(frame: pd.DataFrame) -> float:
        return macro_metric(metric, labels, softmax(frame, axis=1))

    mean = sum(frames.values()) / 3
    helps = value(study_mean(mean, rows.table)) > value(mean)
    assert weights.study_mean.final == (0.8 if helps else None)
    averaged = pd.concat(
        study_mean(part, rows.table) if weights.study_mean.by_fold[fold] else part
        for fold, part in mean.groupby(rows.fold)
    ).loc[rows.table.index]
    assert weights.nested["mean"].score == pytest.approx(value(averaged))
    assert oof_score(runs.challenge, mean, rows.table, rows.fold) == pytest.approx(value(mean))
    assert weights.final.shares["useless"] < 0.2
    evaluation = evaluate(*args(runs, "all"), n_draws=20)
    assert evaluation.metric == metric
    assert evaluation.overall.metrics[metric].value > weights.nested["mean"].score


def test_the_leaderboard_is_sorted_by_macro_f1_and_differs_in_it(single: SimulatedRuns) -> None:
    single.add_run("poor", skill=0.5, seed=1)
    single.add_run("good", skill=2.5, seed=2)
    make_ensemble(*args(single, "both", ["good", "poor"]))
    board = leaderboard(*args(single), n_draws=50)
    values = [evaluation.overall.metrics["macro-F1"].value for evaluation in board.evaluations]
    assert values == sorted(values, reverse=True)
    assert board.evaluations[-1].name == "poor"
    assert board.differences[-1].value == pytest.approx(values[0] - values[-1])
    assert board.differences[-1].low > 0
    heading, first, *_ = leaderboard_table(board).splitlines()
    assert heading.split()[:3] == ["name", "oof", "macro-F1"]
    assert f"{values[0]:.4f} [" in first
    assert "raw pooled" not in heading


def test_the_leaderboard_follows_another_metric_of_the_challenge(single: SimulatedRuns) -> None:
    by_accuracy = replace(single.challenge, metric="accuracy")
    labels = single.table("train")[CLASSES]

    def drop_rare_class(logits: pd.DataFrame) -> pd.DataFrame:
        return labels.loc[logits.index] * [1, 1, 0] + [0.1, 0, 0]

    def drop_some_of_common_class(logits: pd.DataFrame) -> pd.DataFrame:
        wrong = (labels.loc[logits.index, "Effusion"] == 1) & (np.arange(len(logits)) % 5 == 0)
        return labels.loc[logits.index] + np.outer(wrong, [0.0, 2.0, 0.0])

    for name, change in (("cautious", drop_rare_class), ("sensitive", drop_some_of_common_class)):
        for path in single.add_run(name, skill=2, recipe=OFF).glob("fold*/oof.parquet"):
            edit_parquet(path, change)
    names = [
        leaderboard(challenge, single.workspace, n_draws=20).evaluations[0].name
        for challenge in (single.challenge, by_accuracy)
    ]
    assert names == ["sensitive", "cautious"]
    heading = leaderboard_table(leaderboard(by_accuracy, single.workspace, n_draws=20)).splitlines()[0]
    assert heading.split()[2] == "accuracy"
    assert "head macro-F1" in heading


def test_the_score_table_shows_rows_groups_and_classes(single: SimulatedRuns) -> None:
    single.add_run("model", skill=1.5)
    evaluation = evaluate(*args(single, "model"), n_draws=20)
    text = score_table(evaluation)
    assert "macro-F1 below is over pooled probabilities; other summaries: mean over folds" in text
    for metric in ("accuracy", "balanced-accuracy", "weighted-F1", "kappa"):
        interval = evaluation.overall.metrics[metric]
        (line,) = [line for line in text.splitlines() if line.startswith(f"{metric} ")]
        assert line.split(maxsplit=1)[1] == f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
    for score in evaluation.classes:
        (line,) = [line for line in text.splitlines() if line.startswith(score.name)]
        f1, precision = score.metrics["F1"], score.metrics["precision"]
        assert f"{score.n_positive}  " in line
        assert f"{f1.value:.4f} [{f1.low:.4f}, {f1.high:.4f}]" in line
        assert f"{precision.value:.4f}  " in line


def test_a_class_without_rows_is_named_and_left_out_of_the_mean(single: SimulatedRuns) -> None:
    single.add_run("model", skill=1.5, recipe=OFF)
    path = single.workspace.inputs_dir("csv") / "dev.csv"
    table = pd.read_csv(path)
    table[table["Hernia"] == 0].to_csv(path, index=False)
    for file in single.workspace.run_dir("csv", "model").glob("fold*/dev.parquet"):
        edit_parquet(file, lambda logits: logits.loc[logits.index.isin(table["image"][table["Hernia"] == 0])])
    evaluation = evaluate(*args(single, "model", "dev"), n_draws=20)
    assert evaluation.undefined == ("Hernia",)
    f1 = [score.metrics["F1"].value for score in evaluation.classes]
    assert np.isnan(f1[2])
    assert evaluation.overall.metrics["macro-F1"].value == pytest.approx(np.mean(f1[:2]))
    assert "nan" not in score_table(evaluation)


def test_rows_without_a_label_or_a_prediction_do_not_count(single: SimulatedRuns) -> None:
    run_dir = single.add_run("model", skill=1.5, recipe=OFF)
    whole = evaluate(*args(single, "model", "dev"), n_draws=20)
    path = single.workspace.inputs_dir("csv") / "dev.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[:9, CLASSES] = ""
    table.to_csv(path, index=False)
    evaluation = evaluate(*args(single, "model", "dev"), n_draws=20)
    assert evaluation.classes[0].n_known == whole.classes[0].n_known - 10
    labels = single.table("dev").iloc[10:][CLASSES]
    final = load_final_logits("model", "dev", single.current_data).logits.loc[labels.index]
    expected = accuracy_score(labels.to_numpy().argmax(axis=1), final.to_numpy().argmax(axis=1))
    assert evaluation.overall.metrics["accuracy"].value == pytest.approx(expected)
    edit_parquet(run_dir / "fold0" / "oof.parquet", lambda logits: logits.iloc[4:].reindex(logits.index))
    n_rows = len(single.table("train"))
    assert f"4 of {n_rows} rows have no prediction" in score_table(
        evaluate(*args(single, "model"), n_draws=20)
    )


def test_the_constants_of_an_ensemble_change_nothing_either(single: SimulatedRuns) -> None:
    single.add_run("a", skill=2, seed=1)
    single.add_run("b", skill=1, seed=2)
    make_ensemble(*args(single, "both", ["a", "b"]))
    combination = read_weights(single.workspace.run_dir("csv", "both"), single.challenge).final
    members = {name: load_oof_scores(name, single.current_data).constants for name in "ab"}
    constants = combine_constants(members, combination)
    assert (constants.median == 0).all() and (constants.iqr == 1).all()


def test_a_refit_keeps_its_own_probabilities(single: SimulatedRuns) -> None:
    run_dir = single.add_run("all", skill=2, recipe=OFF, splits=("test",))
    single.make_refit("all")
    logits, _ = read_predictions(run_dir / "refit" / "test.parquet", CLASSES)
    final = load_final_logits("all", "test", single.current_data).logits
    np.testing.assert_allclose(softmax(final, axis=1), softmax(logits.astype(float), axis=1), atol=1e-9)


@pytest.mark.parametrize("how", sample_cases([{"kind": "per_class"}, {"kind": "stack"}, {"context": True}]))
def test_members_are_not_weighed_class_by_class(single: SimulatedRuns, how: dict[str, object]) -> None:
    single.add_run("a", skill=2, seed=1)
    single.add_run("b", skill=1, seed=2)
    assert set(make_ensemble(*args(single, "both", ["a", "b"])).weights.nested) == {"mean", "greedy"}
    with pytest.raises(UserError, match=r"is a single-label task.*Use --kind mean or greedy"):
        make_ensemble(*args(single, "other", ["a", "b"]), **how)
