"""Runs that see the images of a study together, from training to predictions."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cxrlt.folds.make import read_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.predict import find_trained_folds, infer_fold, load_model, predict
from cxrlt.predictions.store import read_predictions
from cxrlt.recipe import FusionConfig, Recipe
from cxrlt.training.datasets import create_eval_dataset
from cxrlt.training.infer import infer
from cxrlt.training.setup import create_accelerator, create_fold_loss, create_initial_model
from cxrlt.training.train import TrainPlan, train
from cxrlt.training.tta import NO_TTA
from tiny import CLASSES, load_weights, make_tiny, tiny_recipe

pytestmark = pytest.mark.slow

FUSION = FusionConfig(max_images=3, depth=1, n_heads=2, dim=16)
KINDS = {"frozen": True, "whole": False}


def fusion_recipe(**over: object) -> Recipe:
    """A transformer over up to three images of 2 x 2 tokens; the studies have two."""
    return tiny_recipe(**{"model.fusion": FUSION, "data.size": 64, "schedule.epochs": 1} | over)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> ImageSource:
    """A tiny challenge with one fusion run on frozen features, `frozen`, and one through images, `whole`."""
    source = make_tiny(tmp_path_factory.mktemp("fusion"), n_patients=12, n_folds=2)
    for name, is_frozen in KINDS.items():
        train(source, TrainPlan(name, fusion_recipe(**{"model.frozen": is_frozen})))
    return source


def first_fold(source: ImageSource, name: str):
    folds = read_folds(source.challenge, source.workspace)
    return find_trained_folds(source.workspace.run_dir("csv", name), folds, "csv")[0]


def logits_of(source: ImageSource, name: str, rows: pd.DataFrame, batch_size: int = 32) -> pd.DataFrame:
    """What fold 0 says of these rows of the dev table, through images."""
    trained_fold = first_fold(source, name)
    _, cache = source.load_split("dev", 64)
    options = {"task": "multi_label", "batch_size": batch_size, "n_workers": 0}
    dataset = create_eval_dataset(trained_fold.recipe, rows, CLASSES, cache)
    accelerator = create_accelerator(trained_fold.recipe)
    return infer(
        load_model(trained_fold, 3), dataset, list(rows.index), tuple(CLASSES), accelerator, **options
    )


@pytest.mark.parametrize("name", KINDS)
def test_every_image_is_predicted_out_of_fold_and_all_of_a_study_alike(source, name):
    frame = pd.concat([read_predictions(path, CLASSES)[0] for path in predict(source, name, "oof")])
    table = source.challenge.read("train", source.workspace.inputs_dir("csv"))
    assert sorted(frame.index) == sorted(table.index)
    assert frame.notna().all(axis=None)
    by_study = frame.groupby(table["study"].reindex(frame.index))
    assert (by_study.nunique() == 1).all(axis=None)
    assert (by_study.size() == 2).all()
    assert frame.drop_duplicates().shape[0] == 12


@pytest.mark.parametrize("name", KINDS)
def test_a_study_is_predicted_alike_whatever_is_predicted_beside_it(source, name):
    table, _ = source.load_split("dev", 64)
    whole = logits_of(source, name, table)
    one_by_one = logits_of(source, name, table, batch_size=1)
    shuffled = logits_of(source, name, table.sample(frac=1, random_state=0), batch_size=5)
    few = logits_of(source, name, table[table["study"].isin(table["study"].unique()[3:5])])
    for other in (one_by_one, shuffled, few):
        assert np.abs(whole.loc[other.index] - other).max(axis=None) < 1e-5
    assert (whole.std() > 1e-4).all()


@pytest.mark.parametrize("name", KINDS)
def test_a_study_may_lack_a_view_and_both_views_have_a_say(source, name):
    table, _ = source.load_split("dev", 64)
    frontal = table[table["view"] == "frontal"]
    both, alone = logits_of(source, name, table), logits_of(source, name, frontal)
    assert alone.notna().all(axis=None)
    assert (np.abs(both.loc[alone.index] - alone).max(axis=1) > 1e-6).all()


def test_cached_features_and_images_give_the_same_predictions(source):
    table, cache = source.load_split("dev", 64)
    trained_fold = first_fold(source, "frozen")
    accelerator = create_accelerator(trained_fold.recipe)
    there = set(source.workspace.cache_dir().glob("features-*"))
    cached = infer_fold(trained_fold, cache, table, source.challenge, accelerator, NO_TTA, "predict")
    pd.testing.assert_frame_equal(cached, logits_of(source, "frozen", table), atol=1e-4)
    (new,) = set(source.workspace.cache_dir().glob("features-*")) - there
    assert np.load(new / "features.npy").shape == (24, 4, 64)


def test_frozen_fusion_leaves_the_backbone_alone_and_the_other_moves_it(source):
    for name, is_frozen in KINDS.items():
        (job,) = train(source, TrainPlan(name, fusion_recipe(**{"model.frozen": is_frozen}), folds=(0,)))
        before, after = create_initial_model(job, create_fold_loss(job)).state_dict(), load_weights(job)
        assert before.keys() == after.keys()
        moved = {key.split(".")[0] for key in after if not torch.equal(before[key], after[key])}
        assert {"fusion", "head"} <= moved <= {"backbone", "fusion", "head"}
        assert ("backbone" in moved) != is_frozen


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_fold_fuses_what_its_own_fold_of_another_run_sees(source, is_frozen):
    train(source, TrainPlan("alone", tiny_recipe(**{"data.size": 64, "schedule.epochs": 1})))
    name = f"from-alone-{is_frozen}"
    recipe = fusion_recipe(
        **{"model.init_from": "alone", "model.frozen": is_frozen, "optim.backbone_lr_share": 0.1}
    )
    for job in train(source, TrainPlan(name, recipe)):
        before = load_file(
            source.workspace.run_dir("csv", "alone") / f"fold{job.run.fold}/weights.safetensors"
        )
        after = load_weights(job)
        shared = [key for key in after if key.startswith("backbone.") and key in before]
        assert len(shared) > 20
        assert all(torch.equal(before[key], after[key]) for key in shared) == is_frozen
        assert all(torch.allclose(before[key], after[key], atol=0.02) for key in shared)
    frame = pd.concat([read_predictions(path, CLASSES)[0] for path in predict(source, name, "oof")])
    assert len(frame) == 24 and frame.notna().all(axis=None)


def test_studies_are_augmented_at_test_time_too(source):
    (path, *_) = predict(source, "whole", "test")
    frame, meta = read_predictions(path, CLASSES)
    assert meta.tta == "flip" and len(frame) == 24
    assert frame.notna().all(axis=None)


def test_an_image_that_is_replaced_changes_what_the_others_of_its_study_get(tmp_path):
    source = make_tiny(tmp_path, n_patients=6, n_folds=2)
    train(source, TrainPlan("model", fusion_recipe()))
    before = read_predictions(predict(source, "model", "dev")[0], CLASSES)[0]
    picture = source.workspace.inputs_dir("csv") / "pictures" / "01000_pa.png"
    cv2.imwrite(str(picture), 255 - cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE))
    found = read_predictions(predict(source, "model", "dev")[0], CLASSES)[0]
    changed = found.index[(found != before).any(axis=1)]
    assert set(changed) == {"01000_pa", "01000_lateral"}
    afresh = read_predictions(predict(source, "model", "dev", force=True)[0], CLASSES)[0]
    pd.testing.assert_frame_equal(found, afresh)
