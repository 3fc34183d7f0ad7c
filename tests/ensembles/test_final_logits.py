import numpy as np
import pandas as pd
import pytest

from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.final_logits import (
    load_final_logits,
    load_oof_scores,
    load_split_scores,
    resolve_study_mean,
)
from cxrlt.errors import UserError
from cxrlt.folds.make import make_folds, read_folds
from cxrlt.predictions.standardise import fit_constants, standardise_by_fold
from cxrlt.predictions.store import PredictionsMeta, read_predictions
from cxrlt.predictions.study_mean import study_mean
from cxrlt.recipe import PredictConfig, Recipe, save_recipe
from tiny import SimulatedRuns, edit_parquet, write_fold_predictions

pytestmark = pytest.mark.slow

ON, OFF = (Recipe(predict=PredictConfig(study_mean=option)) for option in ("on", "off"))


def test_oof_scores_are_each_folds_logits_standardised_and_joined_by_id(runs: SimulatedRuns) -> None:
    run_dir = runs.add_run("model", skill=2, drift=3)
    scores = load_oof_scores("model", runs.current_data)
    folds = read_folds(runs.challenge, runs.workspace)
    assert scores.frame.index.equals(folds.frame.index)
    pd.testing.assert_frame_equal(scores.frame, standardise_by_fold(scores.raw, folds.frame["fold"]))
    for fold in range(3):
        logits, _ = read_predictions(run_dir / f"fold{fold}" / "oof.parquet", runs.challenge.classes)
        pd.testing.assert_frame_equal(scores.raw.loc[logits.index], logits)


def test_columns_and_rows_in_another_order_give_the_same_scores(runs: SimulatedRuns) -> None:
    run_dir = runs.add_run("model", skill=2)
    before = load_oof_scores("model", runs.current_data).frame
    edit_parquet(run_dir / "fold1" / "oof.parquet", lambda logits: logits.iloc[::-1, ::-1])
    pd.testing.assert_frame_equal(load_oof_scores("model", runs.current_data).frame, before)


def test_the_fold_mean_is_the_mean_of_the_fold_files(runs: SimulatedRuns) -> None:
    run_dir = runs.add_run("model", skill=2, drift=0.5, recipe=OFF)
    classes, expected = runs.challenge.classes, []
    for fold in range(3):
        oof, _ = read_predictions(run_dir / f"fold{fold}" / "oof.parquet", classes)
        test, _ = read_predictions(run_dir / f"fold{fold}" / "test.parquet", classes)
        expected.append(fit_constants(oof).apply(test).to_numpy())
    scores = load_split_scores("model", "test", runs.current_data)
    np.testing.assert_allclose(scores.frame.to_numpy(), np.mean(expected, axis=0), atol=1e-12)
    logits = load_final_logits("model", "test", runs.current_data).logits
    np.testing.assert_allclose(logits.to_numpy(), scores.constants.invert(scores.frame).to_numpy())


def test_folds_of_one_scale_are_averaged_to_that_scale(runs: SimulatedRuns) -> None:
    run_dir = runs.add_run("model", skill=2, recipe=OFF)
    files = [
        read_predictions(run_dir / f"fold{k}" / "dev.parquet", runs.challenge.classes)[0] for k in range(3)
    ]
    logits = load_final_logits("model", "dev", runs.current_data).logits
    assert np.abs(logits - sum(files) / 3).to_numpy().max() < 0.5


def test_a_fold_that_is_not_trained_is_an_error_that_names_the_command(runs: SimulatedRuns) -> None:
    run_dir = runs.add_run("model", skill=2)
    (run_dir / "fold2" / "oof.parquet").unlink()
    with pytest.raises(UserError, match="cxrlt predict model --challenge csv --split oof"):
        load_oof_scores("model", runs.current_data)
    (run_dir / "fold2" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match="cxrlt train RECIPE --name model --challenge csv --fold 2"):
        load_oof_scores("model", runs.current_data)
    with pytest.raises(UserError, match="cxrlt train demo_resnet --challenge csv --fold 0"):
        load_oof_scores("demo_resnet", runs.current_data)


def test_a_split_that_is_not_predicted_is_an_error_that_names_the_command(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2, splits=("oof", "dev"))
    with pytest.raises(UserError, match="cxrlt predict model --challenge csv --split test"):
        load_split_scores("model", "test", runs.current_data)


def test_a_row_without_a_prediction_of_its_fold_is_an_error_and_so_is_a_row_of_another_fold(
    runs: SimulatedRuns,
) -> None:
    run_dir = runs.add_run("model", skill=2)
    path = run_dir / "fold1" / "oof.parquet"
    lost = read_predictions(path, runs.challenge.classes)[0].index[5]
    edit_parquet(path, lambda logits: logits.drop(lost))
    with pytest.raises(UserError, match=f"lacks 1 rows of fold 1: {lost}.*--split oof$"):
        load_oof_scores("model", runs.current_data)
    edit_parquet(
        run_dir / "fold0" / "oof.parquet",
        lambda logits: pd.concat([logits, logits[:1] * np.nan]).set_axis([*logits.index, lost]),
    )
    with pytest.raises(UserError, match=f"not in fold 0: {lost}"):
        load_oof_scores("model", runs.current_data)


def test_an_unknown_class_is_an_error(runs: SimulatedRuns) -> None:
    run_dir = runs.add_run("model", skill=2)
    edit_parquet(run_dir / "fold0" / "oof.parquet", lambda logits: logits.rename(columns={"Mass": "Masses"}))
    with pytest.raises(UserError, match="unknown: Masses"):
        load_oof_scores("model", runs.current_data)


def test_predictions_made_on_another_split_are_refused(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2)
    make_folds(runs.challenge, runs.workspace, n_folds=3, seed=1, force=True)
    for read in (
        lambda: load_oof_scores("model", runs.current_data),
        lambda: load_split_scores("model", "dev", runs.current_data),
    ):
        with pytest.raises(UserError, match="another split into folds"):
            read()


def test_folds_that_predict_different_ids_are_refused(runs: SimulatedRuns) -> None:
    run_dir = runs.add_run("model", skill=2)
    edit_parquet(run_dir / "fold2" / "test.parquet", lambda logits: logits.iloc[1:])
    with pytest.raises(UserError, match=r"have different ids: test000-0-PA.*--split test --force"):
        load_split_scores("model", "test", runs.current_data)


def test_the_oof_score_decides_whether_a_model_is_averaged_over_studies(runs: SimulatedRuns) -> None:
    run_dir = runs.add_run("model", skill=2)  # lateral images carry a third of the signal: averaging helps
    assert resolve_study_mean("model", runs.current_data).final == 0.8
    lateral = runs.table("train")["view"] == "lateral"
    for fold in range(3):  # now they drown the frontal ones: averaging hurts
        edit_parquet(
            run_dir / f"fold{fold}" / "oof.parquet",
            lambda logits: logits.mul(np.where(lateral[logits.index], 1000, 1), axis=0),
        )
    assert resolve_study_mean("model", runs.current_data).final is None


def test_a_recipe_that_is_decided_about_studies_is_obeyed(runs: SimulatedRuns) -> None:
    runs.add_run("always", skill=2, recipe=ON)
    runs.add_run("never", skill=2, recipe=OFF)
    always, never = (load_final_logits(name, "test", runs.current_data) for name in ("always", "never"))
    assert (always.study_mean.final, never.study_mean.final) == (0.8, None)
    averaged = study_mean(never.logits, runs.table("test"))
    np.testing.assert_allclose(always.logits.to_numpy(), averaged.to_numpy())


def test_a_refit_predicts_dev_and_test_on_its_own_scale_and_has_no_oof(runs: SimulatedRuns) -> None:
    directory = runs.workspace.run_dir("csv", "all") / "refit"
    save_recipe(Recipe(), directory / "config.yaml")
    (directory / "weights.safetensors").touch()
    table = runs.table("test")
    logits = pd.DataFrame(
        np.random.default_rng(0).normal(size=(len(table), 3)).astype(np.float32),
        index=table.index,
        columns=list(runs.challenge.classes),
    )
    write_fold_predictions(directory, logits, PredictionsMeta(fold="refit", split="test"), runs.current_data)
    final = load_final_logits("all", "test", runs.current_data)
    np.testing.assert_allclose(final.logits.to_numpy(), logits.to_numpy(), atol=1e-6)
    assert final.study_mean.final is None
    with pytest.raises(UserError, match="no out-of-fold predictions"):
        load_oof_scores("all", runs.current_data)
    with pytest.raises(UserError, match="cxrlt predict all --challenge csv --split dev"):
        load_split_scores("all", "dev", runs.current_data)
    with pytest.raises(UserError, match="no out-of-fold predictions"):
        make_ensemble(runs.challenge, runs.workspace, "both", ["all"])
