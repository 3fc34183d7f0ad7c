"""Every reader refuses outdated predictions and names the command that renews them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cxrlt.calibration.artifact import read_calibration
from cxrlt.calibration.calibrate import calibrate
from cxrlt.cli import main
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.ensembles.final_logits import load_final_logits, load_oof_scores, resolve_study_mean
from cxrlt.errors import UserError
from cxrlt.folds.make import make_folds
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.store import read_predictions
from cxrlt.provenance import OutdatedError
from cxrlt.recipe import TTAConfig, load_recipe, save_recipe
from cxrlt.submissions.evaluate import evaluate, leaderboard
from cxrlt.submissions.submit import submit
from cxrlt.system.atomic_files import write_json
from tiny import SimulatedRuns, make_simulated_runs, write_fold_predictions
from user_errors import raises_user_error

pytestmark = pytest.mark.slow

PREDICT = r"Renew it with: cxrlt predict model --challenge csv --split {split} --force$"


def args(runs: SimulatedRuns, *rest: object) -> tuple:
    return runs.challenge, runs.workspace, *rest


def change_weights(run_dir: Path, fold: str = "fold1") -> None:
    (run_dir / fold / "weights.safetensors").write_bytes(b"trained again")


def change_recipe(run_dir: Path, **predict: object) -> None:
    path = run_dir / "fold1" / "config.yaml"
    recipe = load_recipe(None, path)
    save_recipe(recipe.model_copy(update={"predict": recipe.predict.model_copy(update=predict)}), path)


def renew(runs: SimulatedRuns, name: str, split: str) -> None:
    """What prediction would do: the same logits, made of what there is now."""
    for directory in runs.workspace.run_dir("csv", name).glob("fold*"):
        logits, meta = read_predictions(directory / f"{split}.parquet", runs.challenge.classes)
        write_fold_predictions(directory, logits, meta, runs.current_data)


@pytest.fixture(scope="module")
def one_model(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRuns:
    runs = make_simulated_runs(tmp_path_factory.mktemp("one"))
    runs.add_run("model", skill=2)
    return runs


@pytest.fixture
def model(one_model: SimulatedRuns, tmp_path: Path) -> SimulatedRuns:
    return one_model.copy(tmp_path)


READERS: dict[str, Callable[[SimulatedRuns], object]] = {
    "evaluate": lambda runs: evaluate(*args(runs, "model"), n_draws=5),
    "evaluate dev": lambda runs: evaluate(*args(runs, "model", "dev"), n_draws=5),
    "leaderboard": lambda runs: leaderboard(*args(runs), n_draws=5),
    "ensemble": lambda runs: make_ensemble(*args(runs, "alone", ["model"])),
    "calibrate": lambda runs: calibrate(*args(runs, "model"), n_draws=5),
    "study mean": lambda runs: resolve_study_mean("model", runs.current_data),
    "submit": lambda runs: submit(*args(runs, "model")),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_predictions_of_other_weights_with_the_command(
    model: SimulatedRuns, reader: str
) -> None:
    change_weights(model.workspace.run_dir("csv", "model"))
    with pytest.raises(UserError, match=f"made with other weights.*{PREDICT.format(split='oof')}"):
        READERS[reader](model)


@pytest.mark.parametrize(("reader", "split"), [("evaluate dev", "dev"), ("submit", "test")])
def test_the_split_that_is_behind_is_named(model: SimulatedRuns, reader: str, split: str) -> None:
    change_weights(model.workspace.run_dir("csv", "model"))
    renew(model, "model", "oof")
    with pytest.raises(OutdatedError, match=f"{split}.parquet is outdated.*{PREDICT.format(split=split)}"):
        READERS[reader](model)


def test_predictions_of_another_recipe_are_refused_and_so_are_constants_of_one(model: SimulatedRuns) -> None:
    resolve_study_mean("model", model.current_data)
    change_recipe(model.workspace.run_dir("csv", "model"), tta=TTAConfig(scales=(0.9,)))
    with raises_user_error("oof.parquet", "predict.tta.scales", kind=OutdatedError):
        load_final_logits("model", "oof", model.current_data)
    with pytest.raises(OutdatedError, match=r"oof\.parquet is outdated.*--split oof --force"):
        load_final_logits("model", "test", model.current_data)


@pytest.mark.parametrize("after", [{"study_mean": "off"}, {"gate": 0.5}])
def test_what_is_done_with_logits_afterwards_outdates_none(model: SimulatedRuns, after: dict) -> None:
    change_recipe(model.workspace.run_dir("csv", "model"), **after)
    load_final_logits("model", "test", model.current_data)


def test_fields_that_change_no_number_outdate_nothing(model: SimulatedRuns) -> None:
    path = model.workspace.run_dir("csv", "model") / "fold1" / "config.yaml"
    text = path.read_text()
    for before, after in (
        ("n_workers: null", "n_workers: 3"),
        ("checkpoint_minutes: 10.0", "checkpoint_minutes: 1.0"),
        ("max_batch_per_device: 32", "max_batch_per_device: 8"),
    ):
        assert before in text
        path.write_text(text.replace(before, after))
        load_final_logits("model", "oof", model.current_data)


def test_predictions_for_other_classes_are_refused_with_the_training(model: SimulatedRuns) -> None:
    counts = {name: model.challenge.train_counts[name] for name in ("Effusion", "Mass")}
    other = replace(model.challenge, train_counts=counts)
    with pytest.raises(OutdatedError, match=r"other classes.*cxrlt train .* --fold 0 --force"):
        load_oof_scores("model", CurrentData(other, model.workspace))


def test_the_order_of_the_classes_changes_nothing(model: SimulatedRuns) -> None:
    counts = {name: model.challenge.train_counts[name] for name in ("Mass", "Effusion", "Hernia")}
    other = SimulatedRuns(replace(model.challenge, train_counts=counts), model.workspace)
    calibrate(*args(model, "model"), n_draws=5)
    make_ensemble(*args(model, "alone", ["model"]))
    before = {name: load_final_logits(name, "test", model.current_data).logits for name in ("model", "alone")}
    for name, logits in before.items():
        assert load_final_logits(name, "test", other.current_data).logits[logits.columns].equals(logits)
    assert make_ensemble(*args(other, "alone", ["model"])).skipped
    read_calibration("model", other.current_data)


def test_predictions_of_another_split_are_refused_with_the_training(model: SimulatedRuns) -> None:
    make_folds(*args(model), n_folds=3, seed=5, force=True)
    with pytest.raises(OutdatedError, match=r"another split into folds.*cxrlt train .*--fold 0 --force"):
        load_final_logits("model", "dev", model.current_data)


def test_where_weights_were_deleted_predictions_are_taken_as_they_are(model: SimulatedRuns) -> None:
    for path in model.workspace.run_dir("csv", "model").glob("fold*/weights.safetensors"):
        path.unlink()
    assert load_final_logits("model", "test", model.current_data).logits.notna().all(axis=None)
    assert evaluate(*args(model, "model"), n_draws=5).overall.metrics["mAP"].value > 0


def test_predictions_without_provenance_are_refused(model: SimulatedRuns) -> None:
    path = model.workspace.run_dir("csv", "model") / "fold0" / "constants.json"
    write_json(path, json.loads(path.read_text()) | {"provenance": {}})
    with raises_user_error("split", "classes", "recipe", kind=OutdatedError):
        load_final_logits("model", "test", model.current_data)


def test_the_leaderboard_names_outdated_runs_and_ranks_the_others(model: SimulatedRuns) -> None:
    model.add_run("other", skill=1, seed=4)
    make_ensemble(*args(model, "both", ["model", "other"]))
    change_weights(model.workspace.run_dir("csv", "model"))
    board = leaderboard(*args(model), n_draws=5)
    assert [evaluation.name for evaluation in board.evaluations] == ["other"]
    assert set(board.skipped) == {"both", "model"}
    assert all("is outdated" in reason for reason in board.skipped.values())


def test_an_ensemble_whose_member_was_predicted_again_is_refused_until_it_is_fitted_again(
    model: SimulatedRuns,
) -> None:
    model.add_run("other", skill=1, seed=4)
    members = ["model", "other"]
    make_ensemble(*args(model, "both", members), kind="stack", context=True, study_mean="on")
    model.add_run("model", skill=2.5, seed=9)
    command = (
        "cxrlt ensemble both --members model other --kind stack --context --study-mean on "
        "--challenge csv --force"
    )
    for read in (
        lambda: evaluate(*args(model, "both"), n_draws=5),
        lambda: submit(*args(model, "both")),
        lambda: calibrate(*args(model, "both"), n_draws=5),
    ):
        with pytest.raises(OutdatedError, match=f"ensemble both is outdated.*{command}"):
            read()
    main([*command.split()[1:], "--root", str(model.workspace.root)])
    assert submit(*args(model, "both")).n_rows == len(model.table("test"))


def test_an_ensemble_is_fitted_even_if_dev_predictions_are_outdated(model: SimulatedRuns) -> None:
    change_weights(model.workspace.run_dir("csv", "model"))
    for split in ("oof", "test"):
        renew(model, "model", split)
    report = make_ensemble(*args(model, "alone", ["model"]))
    assert [path.name for path in report.paths] == ["oof.parquet", "test.parquet"]
