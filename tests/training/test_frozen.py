"""Heads trained on the features of a backbone that stays as it is."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from cxrlt.folds.make import read_folds
from cxrlt.folds.rows import read_train_rows
from cxrlt.inputs.images import ImageSource
from cxrlt.metrics import macro_metric
from cxrlt.models.backbone import create_model
from cxrlt.predictions.predict import TrainedFold, find_trained_folds, infer_fold, load_model, predict
from cxrlt.predictions.store import read_predictions
from cxrlt.recipe import Recipe
from cxrlt.training.checkpoint import save_tensors
from cxrlt.training.datasets import create_eval_dataset
from cxrlt.training.infer import infer
from cxrlt.training.setup import create_accelerator, create_fold_loss, create_initial_model
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from cxrlt.training.tta import NO_TTA
from interruptions import stop_in_update
from tiny import CLASSES, load_weights, make_tiny, same_weights, tiny_recipe

pytestmark = pytest.mark.slow

HEADS = ("linear", "ml_decoder", "csra")


def frozen(head: str = "linear", **over: object) -> Recipe:
    """Feature maps of 2 x 2 of a random backbone, another for every fold."""
    fields = {"model.frozen": True, "model.head.name": head, "data.size": 64}
    fields |= {"model.head.dim": 16} if head == "ml_decoder" else {}
    return tiny_recipe(**fields | {"optim.lr": 1e-2} | over)


def shared_backbone(folder: Path) -> Path:
    """Weights that all folds start from."""
    model = create_model(tiny_recipe(**{"model.pretrained": False}).model, len(CLASSES), 32)
    path = folder / "backbone.safetensors"
    save_tensors(path, model.backbone.state_dict())
    return path


def units(source: ImageSource, name: str) -> list[TrainedFold]:
    folds = read_folds(source.challenge, source.workspace)
    return find_trained_folds(source.workspace.run_dir("csv", name), folds, "csv")


def feature_dirs(source: ImageSource) -> list[Path]:
    return sorted(source.workspace.cache_dir().glob("features-*"))


def predict_without_cache(
    source: ImageSource, trained_fold: TrainedFold, table: pd.DataFrame
) -> pd.DataFrame:
    """Return the logits of the whole model for the rows, without a feature cache."""
    _, cache = source.load_train_rows(read_train_rows(source.challenge, source.workspace).table, 64)
    dataset = create_eval_dataset(trained_fold.recipe, table, CLASSES, cache)
    options = {"task": "multi_label", "batch_size": 7, "n_workers": 0}
    accelerator = create_accelerator(trained_fold.recipe)
    return infer(
        load_model(trained_fold, 3), dataset, list(table.index), tuple(CLASSES), accelerator, **options
    )


@pytest.mark.parametrize("head", HEADS)
def test_the_weights_hold_the_backbone_as_it_was_and_a_head_that_has_learnt(source, head):
    plan = TrainPlan(f"frozen-{head}", frozen(head), folds=(0,))
    (job,) = train(source, plan)
    before, after = create_initial_model(job, create_fold_loss(job)).state_dict(), load_weights(job)
    assert before.keys() == after.keys()
    assert same_weights(*[{k: v for k, v in w.items() if k.startswith("backbone.")} for w in (before, after)])
    moved = [key for key in after if key.startswith("head.") and not torch.equal(before[key], after[key])]
    assert moved
    assert pd.read_csv(job.run_dir / "log.csv")["oof_mAP"].between(0, 1).all()


@pytest.mark.parametrize("head", HEADS)
def test_predictions_through_images_and_through_cached_features_agree(source, head):
    (job,) = train(source, TrainPlan(f"frozen-{head}", frozen(head), folds=(0,)))
    (path,) = predict(source, f"frozen-{head}", "oof")
    cached, meta = read_predictions(path, CLASSES)
    assert meta.tta == "none"
    (trained_fold,) = units(source, f"frozen-{head}")
    whole = predict_without_cache(source, trained_fold, job.data.valid)
    pd.testing.assert_frame_equal(cached.loc[whole.index], whole, atol=1e-4)
    assert (whole.std() > 1e-3).all()


def test_the_last_score_of_training_is_that_of_the_saved_weights(source):
    (job,) = train(source, TrainPlan("frozen-linear", frozen(), folds=(0,)))
    last = pd.read_csv(job.run_dir / "log.csv")["oof_mAP"].iloc[-1]
    (trained_fold,) = units(source, "frozen-linear")
    logits = predict_without_cache(source, trained_fold, job.data.valid)
    assert macro_metric("mAP", job.data.targets(job.data.valid), logits.to_numpy()) == pytest.approx(
        last, abs=1e-6
    )


def test_folds_with_one_backbone_share_its_features_and_predictions_reuse_them(tmp_path):
    source = make_tiny(tmp_path, n_patients=6, n_folds=2)
    recipe = frozen(**{"model.pretrained": shared_backbone(tmp_path), "schedule.epochs": 1})
    train(source, TrainPlan("shared", recipe))
    (directory,) = feature_dirs(source)
    written = (directory / "features.npy").stat().st_mtime_ns
    predict(source, "shared", "oof")
    assert feature_dirs(source) == [directory]
    predict(source, "shared", "test")
    assert len(feature_dirs(source)) == 2
    assert (directory / "features.npy").stat().st_mtime_ns == written


def test_folds_whose_backbones_differ_never_read_each_others_features(tmp_path):
    source = make_tiny(tmp_path, n_patients=6, n_folds=2)
    train(source, TrainPlan("apart", frozen(**{"schedule.epochs": 1})))
    assert len(feature_dirs(source)) == 2
    predict(source, "apart", "oof")
    assert len(feature_dirs(source)) == 2
    jobs = create_fold_jobs(source, TrainPlan("apart", frozen(**{"schedule.epochs": 1})))
    for trained_fold, job in zip(units(source, "apart"), jobs, strict=True):
        cached = read_predictions(trained_fold.directory / "oof.parquet", CLASSES)[0]
        whole = predict_without_cache(source, trained_fold, job.data.valid)
        pd.testing.assert_frame_equal(cached.loc[whole.index], whole, atol=1e-4)


def test_variants_of_an_image_are_predicted_through_the_images(source):
    tta = {"flip": True, "scales": (1.0,)}
    (job,) = train(source, TrainPlan("frozen-linear", frozen(), folds=(0,)))
    (trained_fold,) = units(source, "frozen-linear")
    accelerator = create_accelerator(trained_fold.recipe)
    cfg = trained_fold.recipe.predict.tta.model_copy(update=tta | {"flip": False})
    logits = [
        infer_fold(
            trained_fold, job.data.cache, job.data.valid, source.challenge, accelerator, chosen, "predict"
        )
        for chosen in (NO_TTA, cfg)
    ]
    pd.testing.assert_frame_equal(*logits, atol=1e-4)


def test_the_bias_starts_where_the_loss_is_least_on_average(source):
    recipe = frozen(**{"optim.lr": 1e-9, "schedule.epochs": 1, "loss.name": "bce"})
    (job,) = train(source, TrainPlan("frozen-start", recipe, folds=(0,)))
    positives = job.data.train[CLASSES].sum().to_numpy()
    start = torch.tensor((positives + 0.5) / (len(job.data.train) + 1)).logit()
    assert torch.allclose(load_weights(job)["head.bias"], start.float(), atol=1e-2)


def test_a_frozen_run_that_is_stopped_ends_as_if_it_had_been_left_alone(source):
    recipe = frozen("ml_decoder", checkpoint_minutes=1e-9, **{"model.drop_rate": 0.2})
    (whole,) = train(source, TrainPlan("frozen-whole", recipe, folds=(0,)))
    plan = TrainPlan("frozen-stopped", recipe, folds=(0,))
    with stop_in_update(5):
        train(source, plan)
    checkpoints = source.workspace.run_dir("csv", "frozen-stopped").glob("fold0/checkpoint-*.safetensors")
    backbone = sum(v.nbytes for k, v in load_weights(whole).items() if k.startswith("backbone."))
    assert [path.stat().st_size < backbone for path in checkpoints] == [True, True]
    (resumed,) = train(source, plan)
    assert same_weights(load_weights(resumed), load_weights(whole))


def test_the_best_weights_of_a_frozen_run_are_whole_too(source):
    recipe = frozen(**{"predict.weights": "best", "schedule.epochs": 1})
    (job,) = train(source, TrainPlan("frozen-best", recipe, folds=(0,)))
    assert load_weights(job).keys() == create_initial_model(job, create_fold_loss(job)).state_dict().keys()
