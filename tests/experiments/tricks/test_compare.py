import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrlt.cli import parse
from cxrlt.ensembles.ensemble import predict_run
from cxrlt.ensembles.final_logits import load_final_logits, load_oof_scores
from cxrlt.ensembles.weights import read_weights
from cxrlt.errors import UserError
from cxrlt.experiments import waves
from cxrlt.experiments.compare import compare
from cxrlt.experiments.lists.tricks import TRICKS, TrickExperiment
from cxrlt.experiments.score import CHALLENGE_LABELS
from cxrlt.experiments.variants import ExperimentVariant, with_fields
from cxrlt.metrics import macro_metric
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.standardise import pool_oof_scores
from cxrlt.predictions.store import read_predictions
from cxrlt.predictions.study_mean import study_mean
from cxrlt.recipe import load_recipe
from cxrlt.submissions.evaluate import evaluate
from cxrlt.training.train import create_fold_jobs

pytestmark = pytest.mark.slow

ORDER = ["base", "gem", "crt", "flip", "study_mean", "calibrate", "mean", "context"]


def compare_tricks(source, plan):
    return compare(TrickExperiment(source, plan))


def folder(source, trick, seed=0, name="compare-tricks"):
    return source.workspace.run_dir("csv", f"{name}/{trick}-seed{seed}")


def weights_ctimes(source, name):
    """Return the time at which each fold's weights were written or linked."""
    folds = source.workspace.run_dir("csv", name).glob("*/fold[0-9]")
    return {path: (path / "weights.safetensors").stat().st_ctime_ns for path in folds}


def runs_of(results, trick, truth=CHALLENGE_LABELS):
    return pd.read_csv(results / "runs.csv").query("trick == @trick and truth == @truth")


def test_every_trick_has_a_row_against_every_truth_after_base(finished_tricks):
    _, results, text = finished_tricks
    rows = pd.read_csv(results / "results.csv")
    assert list(zip(rows["truth"], rows["trick"], strict=True)) == [
        (truth, trick) for truth in (CHALLENGE_LABELS, "train") for trick in ORDER
    ]
    assert (rows["seeds"] == 2).all()
    assert text.count("Smallest mAP difference") == 2
    assert text.startswith((results / "results.md").read_text().strip())
    assert rows.loc[rows["trick"] == "base", "verdict"].isna().all()
    assert rows.loc[rows["trick"] != "base", "mAP difference"].notna().all()


def test_a_row_holds_the_mean_of_its_runs_and_their_difference_to_base(finished_tricks):
    _, results, _ = finished_tricks
    rows = pd.read_csv(results / "results.csv").query("truth == 'train'").set_index("trick")
    for trick in ORDER:
        own, base = runs_of(results, trick, "train"), runs_of(results, "base", "train")
        assert rows.loc[trick, "mAP"] == pytest.approx(own["mAP"].mean())
        assert rows.loc[trick, "mAP sd over seeds"] == pytest.approx(own["mAP"].std())
        if trick != "base":
            difference = own["mAP"].mean() - base["mAP"].mean()
            assert rows.loc[trick, "mAP difference"] == pytest.approx(difference)


@pytest.mark.parametrize("trick", ORDER)
def test_a_run_scores_what_evaluate_gives_it(source, finished_tricks, trick):
    (value,) = runs_of(finished_tricks[1], trick).query("seed == 1")["mAP"]
    evaluation = evaluate(source.challenge, source.workspace, f"compare-tricks/{trick}-seed1", n_draws=5)
    assert value == pytest.approx(evaluation.overall.metrics["mAP"].value)


def test_base_is_the_recipe_with_every_image_predicted_alone_and_once(source, finished_tricks):
    plan, _, _ = finished_tricks
    given, base = load_recipe(plan.recipe), load_recipe(None, folder(source, "base") / "fold0/config.yaml")
    assert given.predict.tta.flip
    assert given.predict.study_mean == "on"
    assert not base.predict.tta.flip
    assert base.predict.study_mean == "off"
    assert base.model_copy(update={"predict": given.predict}) == given


def test_a_prediction_is_of_bases_weights(source, finished_tricks):
    for trick in ("flip", "study_mean", "calibrate"):
        for seed, fold in ((0, 2), (1, 0)):
            path = f"fold{fold}/weights.safetensors"
            own, base = (folder(source, name, seed) / path for name in (trick, "base"))
            assert own.read_bytes() == base.read_bytes()


def test_a_prediction_variant_changes_only_its_own_setting(source, finished_tricks):
    classes = source.challenge.classes
    plain, meta = read_predictions(folder(source, "base") / "fold1/oof.parquet", classes)
    flipped, flip_meta = read_predictions(folder(source, "flip") / "fold1/oof.parquet", classes)
    assert (meta.tta, flip_meta.tta) == ("none", "flip")
    assert not np.allclose(plain, flipped)
    current = CurrentData(source.challenge, source.workspace)
    rows = current.rows
    base, own = (
        load_oof_scores(f"compare-tricks/{name}-seed0", current).frame for name in ("base", "study_mean")
    )
    pd.testing.assert_frame_equal(base, own)
    assert not np.allclose(base, study_mean(base, rows.table))


def test_calibration_moves_probabilities_and_no_rank(finished_tricks):
    _, results, _ = finished_tricks
    base, own = runs_of(results, "base"), runs_of(results, "calibrate")
    np.testing.assert_array_equal(base[["mAP", "mAUROC"]], own[["mAP", "mAUROC"]])
    assert (own["local ECE"].to_numpy() < base["local ECE"].to_numpy()).all()


def test_a_second_stage_starts_from_bases_run_of_its_seed_with_a_new_head(source, finished_tricks):
    experiment = TrickExperiment(source, finished_tricks[0])
    for seed in (0, 1):
        run = experiment.run(TRICKS["crt"], seed)
        start = run.recipe.model.init_from
        assert start == f"compare-tricks/base-seed{run.seed}"
        (job,) = create_fold_jobs(source, run.plan(1))
        assert job.run.init_from.weights == folder(source, "base", run.seed) / "fold1/weights.safetensors"
        assert not job.run.init_from.same_classes


def test_an_ensemble_is_of_all_that_was_trained_with_its_seed(source, finished_tricks):
    for seed in (0, 1):
        members = read_weights(folder(source, "mean", seed), source.challenge).members
        assert set(members) == {f"compare-tricks/{name}-seed{seed}" for name in ("base", "gem", "crt")}
        alone = read_weights(folder(source, "context", seed), source.challenge).members
        assert set(alone) == {f"compare-tricks/base-seed{seed}"}


def test_an_ensemble_was_trained_on_no_rows_of_its_own(source, finished_tricks):
    with pytest.raises(UserError, match=r"train_set needs a single model, and compare-tricks/mean-seed0"):
        predict_run(source, "compare-tricks/mean-seed0", "train_set")


def test_cost_is_a_multiple_of_bases_with_all_that_a_trick_needs(finished_tricks):
    _, results, _ = finished_tricks
    rows = pd.read_csv(results / "results.csv").query("truth == 'labels'").set_index("trick")
    times, passes = rows["training_time"], rows["passes"]
    assert (times["base"], times["flip"], times["context"]) == (1, 1, 1)
    assert times["crt"] > 1
    assert times["mean"] == pytest.approx(times["gem"] + times["crt"], rel=1e-6)
    assert dict(passes) == {trick: {"flip": 2, "mean": 3}.get(trick, 1) for trick in ORDER}


def test_a_finished_experiment_trains_nothing_and_reports_the_same(source, finished_tricks, capsys):
    plan, results, text = finished_tricks
    before, table = weights_ctimes(source, "compare-tricks"), (results / "results.csv").read_bytes()
    assert compare_tricks(source, plan) == text
    assert weights_ctimes(source, "compare-tricks") == before
    assert (results / "results.csv").read_bytes() == table
    out = capsys.readouterr().out
    assert not re.findall(r"^(?:train|predict)", out, flags=re.M)


def test_jobs_are_listed_wave_by_wave_and_none_is_run(source, make_tricks_plan, capsys):
    names = ("gem", "crt", "flip", "calibrate", "mean")
    images = replace(source, allow_missing=True)
    compare_tricks(images, make_tricks_plan(*names, name="listed", seeds=1, list_jobs=True))
    lines = capsys.readouterr().out.splitlines()[4:]
    assert [line.partition(":")[0] for line in lines if line.startswith("#")] == [
        "# train",
        "# train second stages",
        "# predict variants",
        "# predict variants",
        "# calibrate",
        "# ensemble",
    ]
    commands = [parse(shlex.split(line)[1:]) for line in lines if not line.startswith("#")]
    assert [(type(command).__name__, command.name) for command in commands] == [
        *(("Train", f"listed/{name}-seed0") for name in ("base", "gem") * 3),
        *(("Train", "listed/crt-seed0") for _ in range(3)),
        ("Predict", "listed/flip-seed0"),
        ("Predict", "listed/calibrate-seed0"),
        ("Calibrate", "listed/calibrate-seed0"),
        ("Ensemble", "listed/mean-seed0"),
    ]
    assert [hasattr(command, "allow_missing") for command in commands] == [True] * 11 + [False] * 2
    assert all(command.allow_missing for command in commands[:11])
    assert commands[0].fields == load_recipe(None, Path(commands[0].recipe))
    assert commands[0].fields.predict.study_mean == "off"
    assert not weights_ctimes(source, "listed")


def test_one_more_trick_reuses_finished_trainings(source, make_tricks_plan):
    compare_tricks(source, make_tricks_plan("flip", "mean", "gem", name="grows", seeds=1))
    before = weights_ctimes(source, "grows")
    text = compare_tricks(source, make_tricks_plan("flip", "mean", "gem", "csra", name="grows", seeds=1))
    after = weights_ctimes(source, "grows")
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 3
    assert len(read_weights(folder(source, "mean", name="grows"), source.challenge).members) == 3
    assert "With one seed, the noise between seeds is not included." in text


def test_selected_folds_are_compared_on_their_oof_rows(source, make_tricks_plan):
    text = compare_tricks(source, make_tricks_plan("crt", "flip", name="some", seeds=1, folds=(2, 0)))
    assert {path.name for path in weights_ctimes(source, "some")} == {"fold0", "fold2"}
    current = CurrentData(source.challenge, source.workspace).for_folds((0, 2))
    rows = current.rows
    assert len(rows.table) < 48
    final = load_final_logits("some/flip-seed0", "oof", current).logits
    assert set(final.index) == set(rows.table.index)
    scores = pool_oof_scores(final, rows.fold, "multi_label")
    expected = macro_metric("mAP", rows.table.loc[scores.index, scores.columns], scores)
    (value,) = runs_of(source.workspace.submission_dir("csv", "some"), "flip")["mAP"]
    assert value == pytest.approx(expected)
    assert "Folds 2, 0 of 3" in text


def test_a_prediction_is_made_again_where_base_was_trained_again(source, make_tricks_plan):
    plan = make_tricks_plan("flip", name="again", seeds=1, folds=(0, 1))
    compare_tricks(source, plan)
    directory = folder(source, "base", name="again") / "fold0"
    other = folder(source, "base", name="again") / "fold1"
    flipped = (folder(source, "flip", name="again") / "fold0/oof.parquet").read_bytes()
    weights = directory / "weights.safetensors"
    weights.unlink()
    weights.write_bytes((other / "weights.safetensors").read_bytes())
    compare_tricks(source, plan)
    assert (folder(source, "flip", name="again") / "fold0/oof.parquet").read_bytes() != flipped


def test_a_trick_that_fails_is_named_at_the_end_and_the_others_are_compared(
    source, make_tricks_plan, monkeypatch
):
    recipe = with_fields({"loss": {"name": "hill", "options": {"hill_lambda": 0.5}}})
    for name, kind in (("wrong", "trained"), ("odd", "second stage")):
        monkeypatch.setitem(TRICKS, name, ExperimentVariant(name, "a loss's wrong option", kind, recipe))
    with pytest.raises(UserError, match=r"wrong-seed0.*hill_lambda.*odd-seed0"):
        compare_tricks(source, make_tricks_plan("flip", "wrong", "odd", "mean", "gem", name="fails", seeds=1))
    results = pd.read_csv(source.workspace.submission_dir("csv", "fails") / "results.csv")
    assert list(results["trick"]) == ["base", "gem", "flip", "mean"]
    members = read_weights(folder(source, "mean", name="fails"), source.challenge).members
    assert not any("wrong" in member for member in members)


def test_another_recipe_is_not_mixed_in(source, finished_tricks, make_tricks_plan):
    path = source.workspace.root / "another.yaml"
    path.write_text(f"base: {make_tricks_plan().recipe}\noptim: {{weight_decay: 0.2}}\n")
    with pytest.raises(UserError, match=r"optim.weight_decay.*--name.*--force"):
        compare_tricks(source, make_tricks_plan("flip", recipe=str(path)))


@pytest.mark.full
def test_parallel_processes_give_the_same_results(source, finished_tricks, make_tricks_plan):
    compare_tricks(source, make_tricks_plan("gem", "flip", "calibrate", name="together", workers=2))
    together = pd.read_csv(source.workspace.submission_dir("csv", "together") / "results.csv")
    alone = pd.read_csv(finished_tricks[1] / "results.csv").query("truth == 'labels'")
    columns = ["mAP", "mAUROC", "mF1@.5", "local ECE"]
    np.testing.assert_allclose(
        together.set_index("trick").loc[["base", "gem", "flip", "calibrate"], columns],
        alone.set_index("trick").loc[["base", "gem", "flip", "calibrate"], columns],
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("tricks", "over", "sentence"),
    [
        (("flipp",), {}, r"flipp: .*ml_decoder, .*flip"),
        (("flip", "flip"), {}, "has duplicates"),
        (("gate",), {}, r"gate \(there is no class for images without findings"),
        (("mean", "flip"), {}, "nothing to ensemble"),
        (("flip",), {"losses": ("bce",)}, "cxrlt compare losses"),
        (("mean", "gem"), {"folds": (0,)}, r"mean \(it is fitted on the other folds: remove --folds"),
        (("flip",), {"folds": (3,)}, "folds 0 to 2"),
        (("flip",), {"seeds": 0}, "--seeds"),
    ],
)
def test_wrong_flags_are_errors_before_any_training(source, make_tricks_plan, tricks, over, sentence):
    with pytest.raises(UserError, match=sentence):
        compare_tricks(source, make_tricks_plan(*tricks, name="nothing", **over))
    assert not source.workspace.run_dir("csv", "nothing").is_dir()


def test_the_page_holds_every_row_of_the_tables(finished_tricks):
    _, results, text = finished_tricks
    page = (results / "report.html").read_text()
    assert (results / "figures" / f"differences_{CHALLENGE_LABELS}.png").is_file()
    rows = re.findall(r"^\| (?:base|gem|flip) \|.*$", text, flags=re.M)
    assert len(rows) == 6
    for row in rows:
        for cell in row.strip("| ").split(" | "):
            assert re.search(rf"<t[dh][^>]*>{re.escape(cell.strip())}</t[dh]>", page)


def test_small_trainings_share_a_process_and_large_ones_have_their_own(source, make_tricks_plan, monkeypatch):
    asked = []
    monkeypatch.setattr(waves, "run_jobs", lambda *_, per_process: asked.append(per_process) or {})
    large = source.workspace.root / "large.yaml"
    large.write_text(f"base: {make_tricks_plan().recipe}\ndata: {{size: 4096}}\n")
    for recipe in (make_tricks_plan().recipe, str(large)):
        experiment = TrickExperiment(source, make_tricks_plan("flip", recipe=recipe, name="sizes"))
        waves.train_wave(experiment, "train", [experiment.run(experiment.reference, 0)], (0,))
    small, own = asked
    assert (small > 100, own) == (True, 1)
