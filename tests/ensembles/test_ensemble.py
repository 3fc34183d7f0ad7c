import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxrlt.cli import main
from cxrlt.ensembles.context import CONTEXT_FEATURES
from cxrlt.ensembles.ensemble import make_ensemble, predict_ensemble
from cxrlt.ensembles.final_logits import load_final_logits, load_oof_scores, load_split_scores
from cxrlt.ensembles.selection import greedy_weights
from cxrlt.ensembles.weights import read_weights
from cxrlt.errors import UserError
from cxrlt.folds.make import make_folds
from cxrlt.predictions.run_names import WEIGHTS_FILE
from cxrlt.predictions.store import read_predictions
from cxrlt.predictions.study_mean import choose_study_mean, study_mean
from cxrlt.submissions.evaluate import evaluate
from tiny import SimulatedRuns, edit_parquet, make_simulated_runs, oof_score
from user_errors import raises_user_error

pytestmark = pytest.mark.slow


def args(runs: SimulatedRuns, *rest: object) -> tuple:
    return runs.challenge, runs.workspace, *rest


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    """Two models of unlike quality, on scales of their own."""
    runs = make_simulated_runs(tmp_path_factory.mktemp("two"))
    runs.add_run("good", skill=2.5, seed=1, drift=2)
    runs.add_run("poor", skill=1.2, seed=2)
    return runs


@pytest.fixture
def two(two_models: SimulatedRuns, tmp_path: Path) -> SimulatedRuns:
    return two_models.copy(tmp_path)


def test_members_are_averaged_by_id_on_one_scale(two: SimulatedRuns) -> None:
    report = make_ensemble(*args(two, "both", ["good", "poor"]), kind="greedy", study_mean="off")
    shares = report.weights.final.shares
    good, poor = (load_split_scores(name, "test", two.current_data) for name in ("good", "poor"))
    expected = shares["good"] * good.frame + shares["poor"] * poor.frame
    parts = [(shares["good"], good.constants), (shares["poor"], poor.constants)]
    median, iqr = sum(s * each.median for s, each in parts), sum(s * each.iqr for s, each in parts)
    final = load_final_logits("both", "test", two.current_data).logits
    np.testing.assert_allclose(final.to_numpy(), (expected * iqr + median).to_numpy())
    assert sum(shares.values()) == pytest.approx(1)


def test_the_weights_of_views_are_those_chosen_for_the_plain_mean_of_the_members(two: SimulatedRuns) -> None:
    chosen = make_ensemble(*args(two, "both", ["good", "poor"]), study_mean="search").weights.study_mean
    good, poor = (load_oof_scores(name, two.current_data).frame for name in ("good", "poor"))
    table = two.current_data.rows.table
    assert chosen == choose_study_mean(two.challenge, (good + poor) / 2, table, "search")


def test_the_nested_score_is_that_of_weights_fitted_without_the_fold(two: SimulatedRuns) -> None:
    two.add_run("third", skill=1.8, seed=3)
    names = ["good", "poor", "third"]
    weights = make_ensemble(*args(two, "all", names), kind="greedy").weights
    assert set(weights.study_mean.by_fold) == {0.8}
    rows = two.current_data.rows
    frames = [study_mean(load_oof_scores(name, two.current_data).frame, rows.table) for name in names]
    labels = rows.table[list(two.challenge.classes)].to_numpy(np.float64)
    parts = []
    for fold in range(3):
        others = (rows.fold != fold).to_numpy()
        fitted = greedy_weights([f[others].to_numpy(np.float32).T for f in frames], labels[others], "mAP")
        assert list(weights.by_fold[fold].shares.values()) == pytest.approx(fitted.tolist())
        parts.append(sum(w * f[~others] for w, f in zip(fitted, frames, strict=True)))
    expected = oof_score(two.challenge, pd.concat(parts), rows.table, rows.fold)
    assert weights.nested["greedy"].score == pytest.approx(expected, abs=1e-9)
    whole = greedy_weights([f.to_numpy(np.float32).T for f in frames], labels, "mAP")
    assert list(weights.final.shares.values()) == pytest.approx(whole.tolist())
    averaged = sum(w * f for w, f in zip(whole, frames, strict=True))
    assert expected < oof_score(two.challenge, averaged, rows.table, rows.fold)
    evaluation = evaluate(*args(two, "all"), n_draws=20)
    assert evaluation.overall.metrics["mAP"].value == pytest.approx(expected, abs=1e-6)


def test_the_ensemble_is_about_as_good_as_its_best_member_or_better(two: SimulatedRuns) -> None:
    make_ensemble(*args(two, "both", ["good", "poor"]))
    ensemble, good = (
        evaluate(*args(two, name), n_draws=20).overall.metrics["mAP"].value for name in ("both", "good")
    )
    assert ensemble > good - 0.02


def test_submissions_change_if_only_the_weights_file_changes(two: SimulatedRuns) -> None:
    make_ensemble(*args(two, "both", ["good", "poor"]))
    path = two.workspace.run_dir("csv", "both") / WEIGHTS_FILE
    before = load_final_logits("both", "test", two.current_data).logits
    values = json.loads(path.read_text())
    values |= {"final": {"members": {"good": 0, "poor": 3}}}
    path.write_text(json.dumps(values))
    after = load_final_logits("both", "test", two.current_data).logits
    assert np.abs(after - before).to_numpy().max() > 0.1
    poor = load_final_logits("poor", "test", two.current_data).logits
    assert (after.rank() == poor.rank()).all(axis=None)
    file = predict_ensemble(*args(two, "both", "test"))
    stored = read_predictions(file, two.challenge.classes)[0]
    np.testing.assert_allclose(stored.to_numpy(), after.to_numpy(), atol=1e-5)


def test_the_scale_of_a_submission_is_that_of_the_members(runs: SimulatedRuns) -> None:
    runs.add_run("a", skill=2, seed=1)
    runs.add_run("b", skill=2, seed=2)
    make_ensemble(*args(runs, "both", ["a", "b"]))
    ensemble, a, b = (
        load_final_logits(name, "test", runs.current_data).logits for name in ("both", "a", "b")
    )
    assert np.abs(ensemble.median() - (a.median() + b.median()) / 2).max() < 0.2


def test_predictions_are_written_for_every_split_that_all_members_have(runs: SimulatedRuns) -> None:
    runs.add_run("a", skill=2, seed=1)
    runs.add_run("b", skill=2, seed=2, splits=("oof", "dev"))
    report = make_ensemble(*args(runs, "both", ["a", "b"]))
    assert [path.name for path in report.paths] == ["oof.parquet", "dev.parquet"]
    ids = read_predictions(report.paths[1], runs.challenge.classes)[0].index
    assert set(ids) == set(runs.table("dev").index)


def test_making_it_again_is_skipped_until_a_member_changes(two: SimulatedRuns) -> None:
    first = make_ensemble(*args(two, "both", ["good", "poor"]))
    stamps = [path.stat().st_mtime_ns for path in first.paths]
    again = make_ensemble(*args(two, "both", ["poor", "good"]))
    assert again.skipped
    assert "already done" in str(again)
    assert [path.stat().st_mtime_ns for path in again.paths] == stamps
    edit_parquet(two.workspace.run_dir("csv", "good") / "fold0" / "oof.parquet", lambda logits: -logits)
    changed = make_ensemble(*args(two, "both", ["good", "poor"]))
    assert not changed.skipped
    assert changed.weights.nested != first.weights.nested


def test_other_members_under_the_same_name_are_an_error_unless_forced(two: SimulatedRuns) -> None:
    make_ensemble(*args(two, "both", ["good", "poor"]))
    with pytest.raises(UserError, match=r"made with --members good poor\..*--force"):
        make_ensemble(*args(two, "both", ["good"]))
    with pytest.raises(UserError, match=r"made with --kind None.*--force"):
        make_ensemble(*args(two, "both", ["good", "poor"]), kind="stack")
    assert make_ensemble(*args(two, "both", ["good"]), force=True).weights.members == ("good",)


def test_one_member_gives_its_own_predictions(two: SimulatedRuns) -> None:
    report = make_ensemble(*args(two, "alone", ["good"]))
    assert (report.weights.kind, report.weights.final.shares) == ("mean", {"good": 1.0})
    alone, good = (load_final_logits(name, "test", two.current_data).logits for name in ("alone", "good"))
    pd.testing.assert_frame_equal(alone, good)


@pytest.mark.parametrize(
    ("name", "members", "sentence"),
    [
        ("both", [], "none named"),
        ("both", ["good", "good"], "good named more than once"),
        ("both", ["good", "absent"], "cxrlt train RECIPE --name absent"),
        ("poor", ["good"], "already has a trained model"),
    ],
)
def test_members_that_cannot_be_averaged_are_an_error(
    two: SimulatedRuns, name: str, members: list[str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        make_ensemble(*args(two, name, members))


def test_an_ensemble_is_no_member(two: SimulatedRuns) -> None:
    make_ensemble(*args(two, "both", ["good", "poor"]))
    with pytest.raises(UserError, match="both is an ensemble"):
        make_ensemble(*args(two, "more", ["both", "good"]))


def test_weights_made_on_another_split_are_refused(two: SimulatedRuns) -> None:
    make_ensemble(*args(two, "both", ["good", "poor"]))
    make_folds(*args(two), n_folds=3, seed=9, force=True)
    with raises_user_error("cxrlt ensemble both --members good poor --challenge csv --force"):
        load_final_logits("both", "oof", two.current_data)


@pytest.mark.parametrize("weight", [-1, float("nan"), 0])
def test_weights_that_are_no_shares_are_refused(two: SimulatedRuns, weight: float) -> None:
    make_ensemble(*args(two, "alone", ["good"]))
    path = two.workspace.run_dir("csv", "alone") / WEIGHTS_FILE
    final = {"final": {"members": {"good": weight}}}
    path.write_text(json.dumps(json.loads(path.read_text()) | final))
    with pytest.raises(UserError, match="weights of members"):
        load_final_logits("alone", "test", two.current_data)


def test_the_report_and_the_file_have_the_score_of_every_kind_and_the_reason(two: SimulatedRuns) -> None:
    report = make_ensemble(*args(two, "both", ["good", "poor"]), context=True)
    values = json.loads((two.workspace.run_dir("csv", "both") / WEIGHTS_FILE).read_text())
    assert list(values["nested"]) == ["mean", "greedy", "per_class", "stack", "stack_context"]
    best = max(figures["score"] for figures in values["nested"].values())
    for kind, figures in values["nested"].items():
        assert figures["behind"] == pytest.approx(best - figures["score"], abs=1e-9)
        assert figures["low"] <= figures["behind"] <= figures["high"]
        (line,) = [line for line in str(report).splitlines() if f"  {kind} " in line and "nested" in line]
        assert f"{figures['score']:.4f}" in line
    assert f"  {values['kind']}: {values['why']}" in str(report)
    assert "1,000 bootstrap samples of patients" in str(report)
    assert "averaged over studies, frontal:lateral 8:2" in str(report)


def test_a_requested_kind_is_used_even_if_others_score_better(two: SimulatedRuns) -> None:
    for kind in ("mean", "greedy", "per_class", "stack"):
        weights = make_ensemble(*args(two, kind, ["good", "poor"]), kind=kind).weights
        assert (weights.kind, weights.why) == (kind, "as requested")
        assert set(weights.nested) == {"mean", "greedy", "per_class", "stack"}
        stored = read_predictions(two.workspace.run_dir("csv", kind) / "oof.parquet", two.challenge.classes)[
            0
        ]
        rows = two.current_data.rows
        score = oof_score(two.challenge, stored.astype(np.float64), rows.table, rows.fold)
        assert score == pytest.approx(weights.nested[kind].score, abs=1e-6)


def test_a_stack_predicts_probabilities_about_as_frequent_as_the_findings(
    two: SimulatedRuns,
) -> None:
    make_ensemble(*args(two, "stack", ["good", "poor"]), kind="stack", study_mean="off")
    shares = expit(load_final_logits("stack", "oof", two.current_data).logits).mean()
    frequency = two.table("train")[list(two.challenge.classes)].mean()
    np.testing.assert_allclose(shares, frequency, atol=0.02)


def test_one_model_may_be_stacked_with_its_context_from_the_command_line(
    two: SimulatedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--challenge", "csv", "--root", str(two.workspace.root), "--study-mean", "search"]
    main(["ensemble", "alone", "--members", "good", "--kind", "stack", "--context", *words])
    assert "ensemble alone: stack_context of good" in capsys.readouterr().out
    weights = read_weights(two.workspace.run_dir("csv", "alone"), two.challenge)
    assert weights.final.context.columns.tolist() == list(CONTEXT_FEATURES)
    assert (weights.study_mean.option, set(weights.nested)) == ("search", {"mean", "stack_context"})
    assert load_final_logits("alone", "test", two.current_data).logits.notna().all(axis=None)


def test_an_ensemble_is_fitted_again_if_labels_change(two: SimulatedRuns) -> None:
    first = make_ensemble(*args(two, "both", ["good", "poor"]))
    path = two.workspace.inputs_dir("csv") / "train.csv"
    table = pd.read_csv(path)
    table.loc[:40, "Mass"] = np.nan
    table.to_csv(path, index=False)
    again = make_ensemble(*args(two, "both", ["good", "poor"]))
    assert not again.skipped
    assert again.weights.nested != first.weights.nested


@pytest.mark.parametrize("option", ["auto", "search"])
def test_if_labels_differ_within_a_study_studies_are_not_averaged_and_the_report_says_so(
    two: SimulatedRuns, option: str
) -> None:
    path = two.workspace.inputs_dir("csv") / "train.csv"
    table = pd.read_csv(path)
    lateral = table["view"] == "LATERAL"
    table.loc[lateral, "Mass"] = 1 - table.loc[lateral, "Mass"]
    table.to_csv(path, index=False)
    report = make_ensemble(*args(two, "both", ["good", "poor"]), study_mean=option)
    assert report.weights.study_mean.final is None
    assert "have other labels than another image of their study" in str(report)
    asked = make_ensemble(*args(two, "asked", ["good", "poor"]), study_mean="on").weights
    assert asked.study_mean.final == 0.8


def test_context_works_only_with_stacking(two: SimulatedRuns) -> None:
    with pytest.raises(UserError, match="--context works only with stacking"):
        make_ensemble(*args(two, "both", ["good", "poor"]), kind="mean", context=True)


def test_members_that_predict_different_images_are_an_error_that_names_one(two: SimulatedRuns) -> None:
    make_ensemble(*args(two, "both", ["good", "poor"]))
    for path in two.workspace.run_dir("csv", "poor").glob("fold*/test.parquet"):
        edit_parquet(path, lambda logits: logits.iloc[1:])
    with raises_user_error(
        "both", "poor", "test000-0-PA", "cxrlt predict both --challenge csv --split test --force"
    ):
        load_final_logits("both", "test", two.current_data)


def test_a_weights_file_that_lacks_a_member_a_class_or_a_fold_is_refused(two: SimulatedRuns) -> None:
    make_ensemble(*args(two, "both", ["good", "poor"]), kind="per_class")
    path = two.workspace.run_dir("csv", "both") / WEIGHTS_FILE
    whole = json.loads(path.read_text())
    classes = whole["final"]["classes"]
    for final, missing in (
        ({"members": {"good": 1}}, "'poor'"),
        ({"classes": {name: classes[name] for name in list(classes)[:2]}}, "'Hernia'"),
    ):
        path.write_text(json.dumps(whole | {"final": final}))
        with pytest.raises(UserError, match=f"lacks {missing}.*cxrlt ensemble both .*--force"):
            load_final_logits("both", "test", two.current_data)
    path.write_text(json.dumps(whole | {"by_fold": whole["by_fold"][:2]}))
    with pytest.raises(UserError, match="cxrlt ensemble both --members good poor"):
        load_final_logits("both", "oof", two.current_data)


def test_a_predicted_split_is_skipped_unless_forced(two: SimulatedRuns) -> None:
    make_ensemble(*args(two, "both", ["good", "poor"]), kind="mean", study_mean="off")
    before = predict_ensemble(*args(two, "both", "dev")).stat()
    assert predict_ensemble(*args(two, "both", "dev")).stat().st_mtime_ns == before.st_mtime_ns
    forced = predict_ensemble(*args(two, "both", "dev"), force=True).stat()
    assert forced.st_mtime_ns != before.st_mtime_ns
    assert forced.st_size == before.st_size
