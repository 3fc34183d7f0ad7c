"""Predicting again, and running again, renew outdated files; a fold is locked to one process."""

import json
import resource
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cxrlt.cli import main
from cxrlt.ensembles.ensemble import make_ensemble, predict_ensemble, predict_run
from cxrlt.errors import UserError
from cxrlt.inputs.images import ImageSource
from cxrlt.pipeline import Plan, run
from cxrlt.predictions.predict import predict
from cxrlt.predictions.store import read_meta, read_predictions
from cxrlt.recipe import TTAConfig, load_recipe, save_recipe
from cxrlt.submissions.evaluate import evaluate
from cxrlt.system.locks import lock_folder
from cxrlt.training.train import TrainPlan, train
from tiny import make_tiny, tiny_recipe, tiny_source
from user_errors import raises_user_error

pytestmark = pytest.mark.slow

SHORT = {"schedule.epochs": 1}


@pytest.fixture(scope="module")
def finished_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a tiny challenge with one trained run of two folds, `model`, predicted out of fold."""
    source = make_tiny(tmp_path_factory.mktemp("made"), n_patients=8, n_folds=2)
    train(source, TrainPlan("model", tiny_recipe(**SHORT)))
    predict(source, "model", "oof")
    return source.workspace.root


@pytest.fixture
def source(finished_root: Path, tmp_path: Path) -> ImageSource:
    """The same, where a test may change it."""
    return tiny_source(shutil.copytree(finished_root, tmp_path, dirs_exist_ok=True))


def fold(source: ImageSource, number: int, name: str = "model") -> Path:
    return source.workspace.run_dir("csv", name) / f"fold{number}"


def move_weights(directory: Path) -> None:
    """As if the fold had been trained to other weights."""
    path = directory / "weights.safetensors"
    save_file({key: value * 1.01 for key, value in load_file(path).items()}, path)


def stamps(source: ImageSource, split: str = "oof") -> list[int]:
    return [(fold(source, k) / f"{split}.parquet").stat().st_mtime_ns for k in range(2)]


def test_only_the_fold_whose_weights_changed_is_predicted_again(
    source: ImageSource, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stamps(source)
    move_weights(fold(source, 1))
    with raises_user_error("fold1/oof.parquet", "other weights", "cxrlt predict model"):
        evaluate(source.challenge, source.workspace, "model", n_draws=5)
    capsys.readouterr()
    predict(source, "model", "oof")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("predict model fold 0 oof: already done")
    assert "fold 1 oof: predicting again, as" in lines[1]
    assert lines[1].endswith("was made with other weights")
    after = stamps(source)
    assert (after[0] == before[0], after[1] > before[1]) == (True, True)
    evaluate(source.challenge, source.workspace, "model", n_draws=5)


def test_predictions_of_another_recipe_and_damaged_predictions_are_predicted_again(
    source: ImageSource, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fold(source, 0) / "config.yaml"
    recipe = load_recipe(None, path)
    tta = recipe.predict.model_copy(update={"tta": TTAConfig(flip=False)})
    save_recipe(recipe.model_copy(update={"predict": tta}), path)
    (fold(source, 1) / "constants.json").write_text("{")
    predict(source, "model", "oof")
    printed = capsys.readouterr().out
    assert "oof.parquet was made with another recipe" in printed
    assert "oof.parquet is damaged or incomplete" in printed
    assert read_meta(fold(source, 0) / "oof.parquet").tta == "none"
    capsys.readouterr()
    predict(source, "model", "oof")
    assert capsys.readouterr().out.count("already done") == 2


def test_a_kill_between_the_two_files_of_a_fold_leaves_no_predictions_beside_other_constants(
    source: ImageSource,
) -> None:
    predict(source, "model", "oof", force=True)  # what is in the cache need not be written again
    constants, predictions = (fold(source, 0) / name for name in ("constants.json", "oof.parquet"))
    before = constants.stat().st_mtime_ns
    room = (constants.stat().st_size + predictions.stat().st_size) // 2
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(UserError, match=r"oof\.parquet"):
            predict(source, "model", "oof", force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert constants.stat().st_mtime_ns > before
    assert not predictions.exists()


def test_weights_for_other_classes_are_never_predicted_with(source: ImageSource) -> None:
    path = fold(source, 0) / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"classes": ["Effusion", "Mass", "Ring"]}))
    with raises_user_error("Hernia, Ring", "cxrlt train", "--fold 0 --force"):
        predict(source, "model", "dev")


def test_classes_in_another_order_are_predicted_by_their_names(source: ImageSource) -> None:
    predict(source, "model", "dev")
    before = read_predictions(fold(source, 0) / "dev.parquet", source.challenge.classes)[0]
    counts = dict(reversed(source.challenge.train_counts.items()))
    other = replace(source, challenge=replace(source.challenge, train_counts=counts))
    predict(other, "model", "dev", force=True)
    after = read_predictions(fold(source, 0) / "dev.parquet", source.challenge.classes)[0]
    assert after.equals(before)
    (job, _) = train(other, TrainPlan("model", tiny_recipe(**SHORT)))
    assert job.data.classes == source.challenge.classes != other.challenge.classes


def test_weights_that_predict_no_numbers_are_no_unreadable_images(source: ImageSource) -> None:
    path = fold(source, 1) / "weights.safetensors"
    save_file({key: value * float("nan") for key, value in load_file(path).items()}, path)
    with pytest.raises(UserError, match=r"NaN or infinite logits for 16 of 16 images.*--fold 1 --force"):
        predict(source, "model", "dev")


@pytest.mark.parametrize("damage", ["truncated", "of another model"])
def test_weights_that_cannot_be_used_are_named_with_the_training(source: ImageSource, damage: str) -> None:
    path = fold(source, 0) / "weights.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        save_file({"w": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"fold0/weights\.safetensors .*cxrlt train .* --fold 0 --force"):
        predict(source, "model", "dev")


def test_a_second_process_that_predicts_a_fold_is_refused_and_names_the_first(
    source: ImageSource, capfd: pytest.CaptureFixture[str]
) -> None:
    holding = f"""
        import sys
        from pathlib import Path
        from cxrlt.system.locks import lock_folder
        sys.argv = ["cxrlt", "predict", "model", "--split", "dev"]
        with lock_folder(Path({str(fold(source, 0))!r})):
            print("held", flush=True)
            sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(holding)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        root = str(source.workspace.root)
        with pytest.raises(SystemExit) as stopped:
            main(["predict", "model", "--challenge", "csv", "--split", "dev", "--root", root])
        assert stopped.value.code == 2
        said = capfd.readouterr().err
        assert f"in use by process {holder.pid} on " in said
        assert "(cxrlt predict model --split dev)" in said
        holder.stdin.close()
    predict(source, "model", "dev")


def test_of_two_ensembles_of_a_name_at_once_the_second_is_refused(source: ImageSource) -> None:
    make_ensemble(source.challenge, source.workspace, "alone", ["model"])
    with lock_folder(source.workspace.run_dir("csv", "alone")):
        for again in (
            lambda: make_ensemble(source.challenge, source.workspace, "alone", ["model"]),
            lambda: predict_ensemble(source.challenge, source.workspace, "alone", "oof"),
        ):
            with pytest.raises(UserError, match="alone is in use by"):
                again()


def test_what_a_killed_prediction_was_writing_is_swept_although_it_is_done(source: ImageSource) -> None:
    make_ensemble(source.challenge, source.workspace, "alone", ["model"])
    left = [fold(source, 1) / ".oof.parquet.123.tmp", fold(source, 0).parents[1] / "alone/.oof.parquet.4.tmp"]
    for path in left:
        path.touch()
    predict_run(source, "alone", "oof")
    assert not any(path.exists() for path in left)


def test_train_predicts_the_folds_it_trained_and_no_others(
    source: ImageSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "model.yaml"
    save_recipe(tiny_recipe(**SHORT), recipe)
    before = stamps(source)
    command = ["train", str(recipe), "--challenge", "csv", "--fold", "1", "--force"]
    main([*command, "--root", str(source.workspace.root)])
    printed = capsys.readouterr().out
    assert "predict model fold 0" not in printed
    assert "outdated now" not in printed
    after = stamps(source)
    assert (after[0] == before[0], after[1] > before[1]) == (True, True)


def test_training_to_other_weights_lists_what_used_the_former(
    source: ImageSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(source, "model", "dev")
    make_ensemble(source.challenge, source.workspace, "alone", ["model"])
    recipe = tmp_path / "model.yaml"
    save_recipe(tiny_recipe(**SHORT), recipe)
    command = ["train", str(recipe), "--challenge", "csv", "--fold", "1", "--seed", "5", "--force"]
    main([*command, "--root", str(source.workspace.root)])
    printed = capsys.readouterr().out
    assert printed.count("outdated now:") == 1
    assert "dev predictions of model, fold 1 (missing): cxrlt predict model --challenge csv" in printed
    assert "ensemble alone (fitted on other predictions of its members): cxrlt ensemble alone" in printed


def test_after_a_fold_is_trained_again_the_run_gives_the_same_submission_as_from_scratch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = []
    for root, rate in (("again", 5e-3), ("scratch", 1e-2)):
        make_tiny(tmp_path / root, n_patients=20, n_folds=2)
        save_recipe(tiny_recipe(**SHORT, **{"optim.lr": rate}), tmp_path / root / "one.yaml")
        words.append(tmp_path / root / "one.yaml")
        run(tiny_source(tmp_path / root), Plan(recipes=(str(words[-1]),), n_folds=2))
    first = zipped(tmp_path / "again")
    words[0].write_bytes(words[1].read_bytes())
    for k in range(2):
        fold_flags = ["--fold", str(k), "--force", "--root", str(tmp_path / "again")]
        main(["train", str(words[0]), "--challenge", "csv", *fold_flags])
    assert zipped(tmp_path / "again") == first
    assert "submission of ensemble for test: cxrlt submit ensemble" in capsys.readouterr().out
    run(tiny_source(tmp_path / "again"), Plan(recipes=(str(words[0]),), n_folds=2))
    assert zipped(tmp_path / "again") == zipped(tmp_path / "scratch") != first


def zipped(root: Path) -> bytes:
    return (root / "submissions" / "csv" / "ensemble" / "submission.zip").read_bytes()
