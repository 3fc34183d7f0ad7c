"""The sets of test-time augmentation and how their logits are merged."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp

from cxrlt.recipe import TTAConfig
from cxrlt.training.tta import NO_TTA, describe_tta, is_identity, merge_logits, tta_variants

EVERYTHING = TTAConfig(flip=True, scales=(0.9, 1.2), crop=0.75)
LOGITS = torch.tensor([[[-100.0, 100.0, 0.3, 14.9]], [[100.0, 99.0, -2.0, 15.1]], [[-3.0, 40.0, 8.0, 16.0]]])
"""Three variants (k, b, c) of one row, at and between the limits."""


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(
        1, 256, (2, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_an_empty_set_is_the_image_itself(images):
    (only,) = tta_variants(images, NO_TTA)
    assert torch.equal(only, images)


def test_every_variant_has_its_mirror_image_beside_it(images):
    found = list(tta_variants(images, EVERYTHING))
    assert len(found) == 2 * (1 + 2 + 5)
    for straight, mirrored in zip(found[::2], found[1::2], strict=True):
        assert torch.equal(straight.flip(-1), mirrored)
    assert len({variant.numpy().tobytes() for variant in found}) == len(found)


@pytest.mark.parametrize("shape", [(32, 32), (3, 32, 32), (2, 3, 1, 33, 33)])
def test_variants_keep_shape_and_type_for_images_and_for_studies(shape):
    for dtype in (torch.uint8, torch.float32):
        images = torch.ones(shape).to(dtype)
        assert all((v.shape, v.dtype) == (images.shape, dtype) for v in tta_variants(images, EVERYTHING))


def test_a_study_is_augmented_as_its_images_are(images):
    alone, together = tta_variants(images, EVERYTHING), tta_variants(images[None], EVERYTHING)
    assert all(torch.equal(a, b[0]) for a, b in zip(alone, together, strict=True))


def test_zooming_in_shows_the_middle_and_zooming_out_puts_a_black_border_around_the_whole():
    images = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    images[..., 8:24, 8:24] = 200
    _, larger, smaller = tta_variants(images, TTAConfig(flip=False, scales=(2.0, 0.5)))
    assert (larger == 200).all()
    _, smaller = tta_variants(torch.full_like(images, 200), TTAConfig(flip=False, scales=(0.5,)))
    assert (smaller[..., 8:24, 8:24] == 200).all()
    assert smaller.sum() == 200 * 16 * 16


def test_a_scale_of_one_changes_nothing(images):
    first, second = tta_variants(images, TTAConfig(flip=False, scales=(1.0,)))
    assert torch.equal(first, second)


def test_the_crops_are_the_corners_and_the_centre():
    corners = [(0, 0), (0, 31), (31, 0), (31, 31)]
    images = torch.zeros(1, 1, 32, 32)
    for y, x in corners:
        images[..., y, x] = 1.0
    _, *crops = tta_variants(images, TTAConfig(flip=False, crop=0.5))
    seen = [[crop[0, 0, y, x].item() > 0 for y, x in corners] for crop in crops]
    assert seen == [*np.eye(4, dtype=bool).tolist(), [False] * 4]
    images = torch.zeros(1, 1, 32, 32)
    images[..., 8:24, 8:24] = 1.0
    _, *crops = tta_variants(images, TTAConfig(flip=False, crop=0.5))
    assert (crops[-1] == 1).all()


def test_the_centre_stays_the_centre():
    images = torch.rand(1, 1, 33, 33)
    symmetric = images + images.flip(-1)
    for variant in list(tta_variants(symmetric, TTAConfig(flip=False, scales=(0.83, 1.31)))):
        assert torch.allclose(variant, variant.flip(-1), atol=1e-5)


def test_variants_do_not_depend_on_the_rest_of_the_batch(images):
    for whole, alone in zip(
        tta_variants(images, EVERYTHING), tta_variants(images[:1], EVERYTHING), strict=True
    ):
        assert torch.equal(whole[:1], alone)


def log_p(logits: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0, -logits)


def test_the_mean_of_logits_is_their_mean():
    assert torch.allclose(merge_logits(LOGITS, "logits", "multi_label"), LOGITS.mean(0))


def test_the_mean_of_probabilities_is_that_of_float64():
    x = LOGITS.double().numpy()
    expected = logsumexp(log_p(x), axis=0) - logsumexp(log_p(-x), axis=0)
    assert np.allclose(merge_logits(LOGITS, "probabilities", "multi_label"), expected, rtol=1e-5, atol=1e-5)


def test_the_geometric_mean_of_probabilities_is_that_of_float64():
    mean = log_p(LOGITS.double().numpy()).mean(0)
    expected = mean - np.log(-np.expm1(mean))
    assert np.allclose(merge_logits(LOGITS, "geometric", "multi_label"), expected, rtol=1e-5, atol=1e-5)


def test_with_one_class_per_row_the_softmax_is_averaged():
    logs = log_softmax(LOGITS.double().numpy(), axis=-1)
    mean = logsumexp(logs, axis=0) - np.log(len(logs))
    assert np.allclose(merge_logits(LOGITS, "probabilities", "single_label"), mean, atol=1e-4)
    assert np.allclose(merge_logits(LOGITS, "geometric", "single_label"), logs.mean(0), atol=1e-4)


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
@pytest.mark.parametrize("how", ["logits", "probabilities", "geometric"])
def test_variants_that_agree_are_merged_to_what_they_say(how, task):
    row = torch.tensor([[-100.0, -20.0, 0.0, 0.5, 14.9, 15.1, 20.0, 100.0]])
    merged = merge_logits(row.expand(4, 1, 8), how, task)
    if task == "single_label" and how != "logits":
        row = row.log_softmax(-1)
    assert torch.allclose(merged, row, atol=2e-5)


@pytest.mark.parametrize("how", ["logits", "probabilities", "geometric"])
def test_merging_needs_no_more_precision_than_the_half_it_is_given(how):
    merged = merge_logits(LOGITS.bfloat16(), how, "multi_label")
    assert merged.dtype == torch.float32
    assert torch.equal(merged, merge_logits(LOGITS.bfloat16().float(), how, "multi_label"))


def test_sets_are_described_in_words():
    assert describe_tta(NO_TTA) == "none"
    assert describe_tta(NO_TTA.model_copy(update={"merge": "geometric"})) == "none"
    assert describe_tta(TTAConfig()) == "flip"
    whole = TTAConfig(scales=(0.9, 1.1), crop=0.875, merge="probabilities")
    assert describe_tta(whole) == "flip, scales 0.9 1.1, crops 0.875, merged as probabilities"
    assert describe_tta(TTAConfig(flip=False, crop=0.9, merge="geometric")) == (
        "crops 0.9, merged as geometric means"
    )
    assert is_identity(NO_TTA) and not is_identity(TTAConfig(flip=False, crop=0.9))
