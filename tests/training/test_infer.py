"""Logits per image id, whatever order, batch or set of variants they were computed in."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from cxrlt.errors import UserError
from cxrlt.inputs.images import ImageSource
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.recipe import TTAConfig
from cxrlt.training.datasets import create_eval_dataset
from cxrlt.training.infer import infer
from cxrlt.training.setup import create_accelerator
from cxrlt.training.tta import NO_TTA, merge_logits, tta_variants
from tiny import CLASSES, tiny_recipe

EVERYTHING = TTAConfig(flip=True, scales=(0.9, 1.2), crop=0.8, merge="probabilities")


class Brightness(nn.Module):
    """Sees how bright an image is, and nothing that mirroring changes."""

    def predict(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["images"].float().mean((1, 2, 3))[:, None] * torch.tensor([1.0, -0.5, 0.01])


@pytest.fixture(scope="module")
def model() -> XRayModel:
    torch.manual_seed(0)
    return create_model(tiny_recipe().model, len(CLASSES), 32)


def logits_of(
    source: ImageSource, model: nn.Module, ids: list[str] | None = None, **options: object
) -> pd.DataFrame:
    recipe = tiny_recipe()
    table, cache = source.load_split("dev", 32)
    rows = table.loc[ids] if ids is not None else table
    chosen = {"task": "multi_label", "batch_size": 16, "n_workers": 0} | options
    dataset = create_eval_dataset(recipe, rows, CLASSES, cache)
    return infer(model, dataset, list(rows.index), tuple(CLASSES), create_accelerator(recipe), **chosen)


@pytest.mark.parametrize("tta", [NO_TTA, EVERYTHING])
def test_an_images_logits_do_not_depend_on_the_batch_or_the_order(source, model, tta):
    whole = logits_of(source, model, tta=tta)
    assert whole.index.is_unique and len(whole) == 48
    assert whole.dtypes.eq(np.float32).all() and (whole.std() > 1e-3).all()
    assert np.allclose(logits_of(source, model, tta=tta, batch_size=1), whole, atol=1e-5)
    some = list(whole.index[[40, 3, 17]])
    few = logits_of(source, model, some, tta=tta)
    assert list(few.index) == some
    assert np.allclose(few, whole.loc[some], atol=1e-5)


def test_mirroring_changes_nothing_for_a_model_that_sees_no_side(source):
    plain = logits_of(source, Brightness())
    pd.testing.assert_frame_equal(logits_of(source, Brightness(), tta=TTAConfig(flip=True)), plain, rtol=1e-5)


@pytest.mark.parametrize("merge", ["logits", "probabilities", "geometric"])
def test_a_set_of_the_image_itself_changes_nothing(source, model, merge):
    plain = logits_of(source, model)
    same_weights = logits_of(source, model, tta=TTAConfig(flip=False, scales=(1.0, 1.0), merge=merge))
    pd.testing.assert_frame_equal(same_weights, plain, atol=1e-5)


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_a_set_is_what_its_variants_say_merged(source, model, task):
    table, cache = source.load_split("dev", 32)
    images = torch.from_numpy(np.stack([cache[image_id] for image_id in table.index[:4]]))[:, None]
    with torch.inference_mode():
        passes = [model.eval().predict({"images": variant}) for variant in tta_variants(images, EVERYTHING)]
    expected = merge_logits(torch.stack(passes), "probabilities", task)
    found = logits_of(source, model, list(table.index[:4]), tta=EVERYTHING, task=task)
    assert np.allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, passes[0], atol=1e-3)


def test_nothing_is_dropped_although_the_model_was_training(source):
    model = create_model(tiny_recipe(**{"model.drop_rate": 0.5}).model, len(CLASSES), 32).train()
    pd.testing.assert_frame_equal(logits_of(source, model), logits_of(source, model.train()))


def test_no_rows_give_no_logits_and_rows_that_are_not_there_are_named(source, model):
    assert logits_of(source, model, []).shape == (0, 3)
    table, cache = source.load_split("dev", 32)
    dataset = create_eval_dataset(tiny_recipe(), table, CLASSES, cache)
    options = {"task": "multi_label", "batch_size": 2, "n_workers": 0}
    with pytest.raises(UserError, match="absent"):
        infer(model, dataset, ["absent"], tuple(CLASSES), create_accelerator(tiny_recipe()), **options)
