import dataclasses

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxrlt.errors import UserError
from cxrlt.folds.make import read_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.predict import effective_tta, find_trained_folds, load_model, predict, uses_flip
from cxrlt.predictions.standardise import fit_constants, read_constants
from cxrlt.predictions.store import read_predictions
from cxrlt.submissions.evaluate import evaluate
from cxrlt.training.train import TrainPlan, train
from cxrlt.training.tta import tta_variants
from sampled_cases import sample_cases
from tiny import CLASSES, make_tiny, tiny_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> ImageSource:
    """A tiny challenge with one trained run, `model`."""
    source = make_tiny(tmp_path_factory.mktemp("predict"), n_patients=12)
    train(source, TrainPlan("model", tiny_recipe(**{"schedule.epochs": 1})))
    return source


def load_folds(source, name="model"):
    folds = read_folds(source.challenge, source.workspace)
    return find_trained_folds(source.workspace.run_dir("csv", name), folds, "csv")


def expected_logits(source, trained_fold, split, image_id, mirrored=False):
    _, cache = source.load_split(split, 32)
    model = load_model(trained_fold, len(CLASSES)).eval()
    image = torch.from_numpy(np.array(cache[image_id]))[None, None]
    with torch.no_grad():
        return model({"images": image.flip(-1) if mirrored else image})[0].numpy()


def test_out_of_fold_rows_are_predicted_by_the_fold_that_left_them_out(source):
    paths = predict(source, "model", "oof")
    folds = read_folds(source.challenge, source.workspace)
    for fold, path in enumerate(paths):
        frame, meta = read_predictions(path, CLASSES)
        assert set(frame.index) == set(folds.frame.index[folds.frame["fold"] == fold])
        assert (meta.fold, meta.split, meta.provenance["rows"]) == (
            str(fold),
            "oof",
            folds.identity.rows(fold),
        )
        constants, _ = read_constants(path.parent, CLASSES, made_by="")
        pd.testing.assert_series_equal(constants.median, fit_constants(frame).median, check_names=False)


@pytest.mark.parametrize("split", sample_cases(["dev", "test"], first=1))
def test_predictions_are_the_mean_of_the_image_and_its_mirror_image(source, split):
    for trained_fold, path in zip(load_folds(source), predict(source, "model", split), strict=True):
        frame, meta = read_predictions(path, CLASSES)
        assert meta.tta == "flip"
        assert frame.dtypes.eq(np.float32).all()
        for image_id in frame.index[:3]:
            both = [
                expected_logits(source, trained_fold, split, image_id, mirrored) for mirrored in (False, True)
            ]
            assert np.allclose(frame.loc[image_id], np.mean(both, axis=0), atol=1e-5)


def test_a_finished_split_is_skipped_until_forced(source, capsys):
    (path, *_) = predict(source, "model", "dev")
    written = path.stat().st_mtime_ns
    capsys.readouterr()
    predict(source, "model", "dev")
    assert "already done" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == written
    predict(source, "model", "dev", force=True)
    assert path.stat().st_mtime_ns > written


def test_rows_whose_image_came_later_are_predicted(tmp_path):
    source = make_tiny(tmp_path, n_patients=6, n_folds=2)
    train(source, TrainPlan("model", tiny_recipe(**{"schedule.epochs": 1})))
    late = source.workspace.inputs_dir("csv") / "pictures" / "01000_pa.png"
    away = late.rename(tmp_path / "away.png")
    partial = dataclasses.replace(source, allow_missing=True)
    assert all(len(read_predictions(path, CLASSES)[0]) == 11 for path in predict(partial, "model", "dev"))
    away.rename(late)
    assert all(len(read_predictions(path, CLASSES)[0]) == 12 for path in predict(source, "model", "dev"))


def test_an_unreadable_image_is_an_error_or_by_request_left_unpredicted(tmp_path):
    source = make_tiny(tmp_path, n_patients=6, n_folds=2)
    broken = source.workspace.inputs_dir("csv") / "pictures" / "00000_pa.png"
    broken.write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"00000_pa.*--quarantine"):
        train(source, TrainPlan("model", tiny_recipe(**{"schedule.epochs": 1})))
    source = dataclasses.replace(source, quarantine=True)
    jobs = train(source, TrainPlan("model", tiny_recipe(**{"schedule.epochs": 1})))
    assert all("00000_pa" not in job.data.train.index for job in jobs)
    frames = pd.concat([read_predictions(path, CLASSES)[0] for path in predict(source, "model", "oof")])
    assert len(frames) == 12
    assert frames.loc["00000_pa"].isna().all()
    assert frames.drop("00000_pa").notna().all(axis=None)


def test_a_refit_predicts_dev_and_test_but_has_no_out_of_fold_rows(source):
    train(source, TrainPlan("model-refit", tiny_recipe(**{"schedule.epochs": 1}), refit=True))
    (path,) = predict(source, "model-refit", "test")
    assert len(read_predictions(path, CLASSES)[0]) == 24
    with pytest.raises(UserError, match="no out-of-fold predictions"):
        predict(source, "model-refit", "oof")


def test_a_run_that_is_not_there_names_the_command_that_trains_it(source):
    with pytest.raises(UserError, match="cxrlt train RECIPE --name absent --challenge csv"):
        predict(source, "absent", "oof")


def test_a_split_that_is_not_there_is_named(source):
    with pytest.raises(UserError, match="no split 'val'"):
        predict(source, "model", "val")


def test_no_flip_if_training_did_not_flip_or_the_recipe_disables_it():
    assert uses_flip(tiny_recipe(), ("Mass",))
    assert not uses_flip(tiny_recipe(**{"predict.tta": {"flip": False}}), ("Mass",))
    augment = tiny_recipe().data.augment.model_copy(update={"flip": False})
    assert not uses_flip(tiny_recipe(**{"data.augment": augment}), ("Left effusion",))


def test_no_flip_for_a_frozen_backbone_whose_images_were_never_mirrored():
    assert not uses_flip(tiny_recipe(**{"model.frozen": True}), ("Left effusion",))


def test_the_tta_variants_of_the_recipe_are_predicted_and_recorded(source):
    tta = {"scales": (0.9, 1.1), "crop": 0.875, "merge": "probabilities"}
    recipe = tiny_recipe(**{"schedule.epochs": 1, "predict.tta": tta})
    assert effective_tta(recipe, CLASSES) == recipe.predict.tta
    train(source, TrainPlan("variants", recipe, folds=(0,)))
    (path,) = predict(source, "variants", "dev")
    frame, meta = read_predictions(path, CLASSES)
    assert meta.tta == "flip, scales 0.9 1.1, crops 0.875, merged as probabilities"
    (trained_fold,) = load_folds(source, "variants")
    _, cache = source.load_split("dev", 32)
    image = torch.from_numpy(np.array(cache[frame.index[0]]))[None, None]
    with torch.no_grad():
        passes = [
            load_model(trained_fold, 3).eval()({"images": variant})
            for variant in tta_variants(image, recipe.predict.tta)
        ]
    assert len(passes) == 16
    p = torch.stack(passes).double().sigmoid().mean(0)[0]
    assert np.allclose(frame.iloc[0], p.logit(), atol=1e-4)


def test_a_class_with_a_side_refuses_the_mirror_image():
    with pytest.raises(UserError, match=r"Left effusion.*side"):
        uses_flip(tiny_recipe(), ("Left effusion", "Mass"))


def test_another_split_into_folds_refuses_the_runs_of_the_former(tmp_path):
    from cxrlt.folds.make import make_folds

    source = make_tiny(tmp_path, n_patients=6, n_folds=2)
    train(source, TrainPlan("model", tiny_recipe(**{"schedule.epochs": 1})))
    make_folds(source.challenge, source.workspace, 2, seed=1, force=True)
    with pytest.raises(UserError, match="trained on another split"):
        predict(source, "model", "oof")


def test_pictures_of_the_fixture_are_what_the_classes_say(source):
    table = source.challenge.read("train", source.workspace.inputs_dir("csv"))
    folder = source.workspace.inputs_dir("csv")
    brightest = [cv2.imread(str(folder / path), cv2.IMREAD_GRAYSCALE).max() for path in table["path"]]
    assert np.array_equal(np.array(brightest) == 220, table[["Effusion", "Hernia"]].any(axis=1))


def test_single_label_logits_are_not_standardised(tmp_path):
    source = make_tiny(tmp_path, n_patients=12, n_folds=2, task="single_label")
    train(source, TrainPlan("model", tiny_recipe(**{"schedule.epochs": 1, "loss.name": "ce"})))
    for path in predict(source, "model", "oof"):
        constants, _ = read_constants(path.parent, CLASSES, made_by="")
        assert (constants.median == 0).all() and (constants.iqr == 1).all()
    predict(source, "model", "dev")
    for split in ("oof", "dev"):
        evaluation = evaluate(source.challenge, source.workspace, "model", split, n_draws=5)
        assert evaluation.n_rows == 24
        assert 0 <= evaluation.overall.metrics["macro-F1"].value <= 1
