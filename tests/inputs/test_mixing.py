import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxrlt.errors import UserError
from cxrlt.inputs.augment import Transform
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.cache_build import build_cache
from cxrlt.inputs.dataset import XRayDataset, make_loader
from cxrlt.inputs.mixing import MOSAIC_CENTRE, Mix, Mixing
from cxrlt.inputs.sampling import epoch_batches
from cxrlt.recipe import MixConfig

SIZE, N_ROWS = 32, 20
NAN = np.nan
CLASSES = ("Mass", "Normal", "Nodule")
ALL = ("mixup", "cutmix", "mosaic")


def mixing_of(*kinds: str, **options: object) -> Mixing:
    cfg = MixConfig(kinds=kinds, **{"probability": 1, **options})
    return Mixing.create(cfg, CLASSES, "Normal", "multi_label")


def draws_of(mixing: Mixing, n: int = 300) -> list[Mix]:
    return [mixing.sample(seed, seed % N_ROWS, N_ROWS, SIZE) for seed in range(n)]


def flat(*greys: int) -> list[np.ndarray]:
    return [np.full((SIZE, SIZE), grey, np.uint8) for grey in greys]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    """Return a cache in which all pixels of image k are 10 + 12 k."""
    folder = tmp_path_factory.mktemp("images")
    ids = pd.Index([f"image{row:02d}" for row in range(N_ROWS)], name="image_id")
    files = [str(folder / f"{image_id}.png") for image_id in ids]
    for row, file in enumerate(files):
        cv2.imwrite(file, np.full((SIZE, SIZE), 10 + 12 * row, np.uint8))
    table = pd.DataFrame({"file": files}, index=ids)
    return build_cache(table, SIZE, folder / "cache", "toy", "train", folder, workers=1)


@pytest.fixture
def targets() -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 2, (N_ROWS, len(CLASSES))).astype(np.float32)
    values[4, 1] = values[9, 2] = NAN
    return values


def dataset_of(cache: ImageCache, targets: np.ndarray, mixing: Mixing | None, **options) -> XRayDataset:
    return XRayDataset(cache, list(cache.ids), targets, seed=1, mixing=mixing, **options)


def test_mixup_is_the_weighted_mean_of_two_images():
    mix = Mix("mixup", np.array([0, 1]), np.array([0.75, 0.25]))
    assert (mix.image(flat(200, 100)) == 175).all()


def test_a_cutmix_weighs_its_images_by_the_pixels_they_have():
    clipped = 0
    for mix in draws_of(mixing_of("cutmix", alpha=1.0)):
        image = mix.image(flat(0, 255))
        assert mix.weights[1] == (image == 255).mean() and mix.weights.sum() == 1
        clipped += mix.weights[1] > 0 and bool(image[0].any() or image[-1].any())
    assert clipped > 50


def test_the_rectangle_of_a_cutmix_shows_the_other_image_in_its_place():
    one, two = np.zeros((SIZE, SIZE), np.uint8), np.arange(SIZE**2).reshape(SIZE, SIZE).astype(np.uint8)
    for mix in draws_of(mixing_of("cutmix"), 30):
        top, bottom, left, right = mix.cut
        image = mix.image([one, two])
        np.testing.assert_array_equal(image[top:bottom, left:right], two[top:bottom, left:right])
    assert not one.any()


def test_a_mosaic_shows_four_images_whole_in_its_quarters():
    framed = []
    for grey in (60, 100, 140, 180):
        image = np.full((SIZE, SIZE), grey, np.uint8)
        image[[0, -1]] = image[:, [0, -1]] = 0
        framed.append(image)
    for mix in draws_of(mixing_of("mosaic"), 50):
        (y, x), image = mix.cut, mix.image(framed)
        quarters = [image[:y, :x], image[:y, x:], image[y:, :x], image[y:, x:]]
        for grey, quarter in zip((60, 100, 140, 180), quarters, strict=True):
            middle = quarter[3:-3, 3:-3]
            assert (middle == grey).all()
            edges = np.concatenate([quarter[0], quarter[-1], quarter[:, 0], quarter[:, -1]])
            assert edges.max() < grey  # the frame on all four sides: nothing is cut off
        assert np.allclose(mix.weights, [q.size / SIZE**2 for q in quarters])
        assert all(round(MOSAIC_CENTRE[0] * SIZE) <= at <= round(MOSAIC_CENTRE[1] * SIZE) for at in mix.cut)


def test_colour_is_mixed_plane_by_plane():
    images = list(np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8))
    grey = [image[..., 1] for image in images]
    for mix in draws_of(mixing_of(*ALL), 60):
        mixed = mix.image(images[: len(mix.rows)])
        assert mixed.shape == (SIZE, SIZE, 3) and mixed.dtype == np.uint8
        np.testing.assert_array_equal(mixed[..., 1], mix.image(grey[: len(mix.rows)]))


def test_kinds_and_partner_rows_are_sampled_uniformly():
    mixing = mixing_of(*ALL, probability=0.6)
    draws = draws_of(mixing, 3000)
    kinds = [mix.kind for mix in draws if mix is not None]
    assert 1700 < len(kinds) < 1900
    assert all(500 < kinds.count(kind) < 700 for kind in ALL)
    partners = np.concatenate([mix.rows[1:] for mix in draws if mix is not None and mix.kind != "mosaic"])
    assert np.bincount(partners, minlength=N_ROWS).min() > 0.6 * len(partners) / N_ROWS


def test_the_image_of_the_row_is_at_a_random_place_of_a_mosaic():
    draws = draws_of(mixing_of(*ALL))
    assert all(seed % N_ROWS in mix.rows for seed, mix in enumerate(draws))
    places = {int(np.argmax(m.rows == s % N_ROWS)) for s, m in enumerate(draws) if m.kind == "mosaic"}
    assert places == {0, 1, 2, 3}
    assert all(m.rows[0] == s % N_ROWS for s, m in enumerate(draws) if m.kind != "mosaic")


def test_soft_labels_are_weighted_means_and_nan_if_one_is_nan():
    mix = Mix("mixup", np.array([0, 1]), np.array([0.75, 0.25]))
    parts = np.array([[1, 0, NAN], [0, 0, 1]], np.float32)
    np.testing.assert_array_equal(mixing_of("mixup").targets(mix, parts), np.float32([0.75, 0, NAN]))
    unseen = Mix("cutmix", np.array([0, 1]), np.array([1.0, 0.0]))
    np.testing.assert_array_equal(mixing_of("cutmix").targets(unseen, parts[::-1]), [0, 0, 1])


@pytest.mark.parametrize(
    ("of_parts", "finding", "no_finding"),
    [
        ([0, 0, 0, 0], 0, 0),
        ([1, 0, 0, 0], 1, 0),
        ([1, NAN, 0, 0], 1, 0),
        ([NAN, 0, 0, 0], NAN, 0),
        ([1, 1, 1, NAN], 1, NAN),
        ([1, 1, 1, 1], 1, 1),
        ([NAN, NAN, NAN, NAN], NAN, NAN),
    ],
)
def test_a_union_has_all_findings_and_no_finding_only_if_all_have_it(of_parts, finding, no_finding):
    mix = Mix("mosaic", np.arange(4), np.full(4, 0.25))
    parts = np.repeat(np.array(of_parts, np.float32)[:, None], 3, axis=1)
    union = mixing_of("mosaic").targets(mix, parts)
    np.testing.assert_array_equal(union, np.float32([finding, no_finding, finding]))


def test_no_finding_is_known_by_its_name():
    cfg = MixConfig(kinds=("mosaic",), probability=1)
    mix, parts = Mix("mosaic", np.arange(4), np.full(4, 0.25)), np.eye(4, dtype=np.float32)
    for classes in (("Normal", "a", "b", "c"), ("a", "b", "c", "Normal")):
        union = Mixing.create(cfg, classes, "Normal", "multi_label").targets(mix, parts)
        assert dict(zip(classes, union, strict=True)) == {"a": 1, "b": 1, "c": 1, "Normal": 0}
    assert Mixing.create(cfg, ("a", "b", "c", "d"), None, "multi_label").targets(mix, parts).all()


def test_auto_labels_are_a_union_only_for_multilabel_mosaics():
    assert mixing_of(*ALL).union_kinds == {"mosaic"}
    assert mixing_of(*ALL, labels="union").union_kinds == set(ALL)
    assert mixing_of(*ALL, labels="soft").union_kinds == set()
    single = Mixing.create(MixConfig(kinds=ALL), CLASSES, "Normal", "single_label")
    assert single.union_kinds == set()
    with pytest.raises(UserError, match=r"data\.mix\.labels union.*single-label"):
        Mixing.create(MixConfig(kinds=ALL, labels="union"), CLASSES, "Normal", "single_label")


def test_one_class_per_image_stays_a_distribution():
    mixing = Mixing.create(MixConfig(kinds=ALL, probability=1), CLASSES, "Normal", "single_label")
    one_hot = np.eye(3, dtype=np.float32)[np.arange(N_ROWS) % 3]
    for mix in draws_of(mixing):
        assert np.isclose(mixing.targets(mix, one_hot[mix.rows]).sum(), 1)


def test_nothing_is_mixed_without_kinds_or_probability():
    for cfg in (MixConfig(), MixConfig(kinds=ALL, probability=0)):
        assert Mixing.create(cfg, CLASSES, None, "multi_label") is None


def test_targets_of_a_mixed_item_belong_to_its_images(cache: ImageCache, targets: np.ndarray):
    for kind in ("mixup", "cutmix"):
        mixing = mixing_of(kind)
        dataset = dataset_of(cache, targets, mixing)
        for draw in range(N_ROWS):
            inputs, labels, row = dataset[2, draw]
            mix = dataset._sample_mix(2, draw)
            assert row == draw and labels.dtype == torch.float32
            mean = inputs["images"].double().mean().item()
            assert abs(mean - mix.weights @ (10 + 12 * mix.rows)) < 0.6
            expected = (mix.weights[mix.weights > 0] @ targets[mix.rows[mix.weights > 0]]).astype(np.float32)
            np.testing.assert_array_equal(labels, expected)


def test_unmixed_items_do_not_depend_on_mixing(cache: ImageCache, targets: np.ndarray):
    transform = Transform(SIZE, flip=True, crop_scale=(0.8, 1.0), rotate=10, noise=0.5)
    plain = dataset_of(cache, targets, None, transform=transform)
    mixed = dataset_of(cache, targets, mixing_of(*ALL, probability=0.5), transform=transform)
    same = [torch.equal(plain[0, row][0]["images"], mixed[0, row][0]["images"]) for row in range(N_ROWS)]
    assert same == [mixed._sample_mix(0, row) is None for row in range(N_ROWS)]
    assert 3 < sum(same) < 17


def test_each_image_is_augmented_before_mixing(cache: ImageCache, targets: np.ndarray):
    """A row that is mixed with itself is augmented twice, differently."""
    transform = Transform(SIZE, brightness=0.2)
    one = XRayDataset(
        cache, ["image09"], targets[:1], transform=transform, mixing=mixing_of("cutmix", alpha=5)
    )
    greys = [len(np.unique(one[epoch, 0][0]["images"])) for epoch in range(20)]
    assert greys.count(2) > 15


def test_the_targets_of_draws_are_those_of_their_items(cache: ImageCache, targets: np.ndarray):
    dataset = dataset_of(cache, targets, mixing_of(*ALL, probability=0.7))
    draws = np.concatenate([np.arange(N_ROWS), np.arange(N_ROWS) + 2 * N_ROWS])
    items = torch.stack([dataset[3, draw][1] for draw in draws.tolist()])
    np.testing.assert_array_equal(dataset.targets_of(3, draws), items)
    np.testing.assert_array_equal(dataset.targets, targets)  # the table's own are left alone


def test_copies_and_epochs_are_mixed_differently(cache: ImageCache, targets: np.ndarray):
    dataset = dataset_of(cache, targets, mixing_of(*ALL))
    images = [dataset[epoch, 5 + N_ROWS * copy][0]["images"] for epoch in (0, 1) for copy in (0, 1)]
    assert len({image.numpy().tobytes() for image in images}) == 4
    assert torch.equal(images[1], dataset[0, 5 + N_ROWS][0]["images"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_mixed_batches_depend_on_neither_workers_nor_batches_nor_interruptions(
    cache: ImageCache, targets: np.ndarray
):
    dataset = dataset_of(cache, targets, mixing_of(*ALL, probability=0.8))
    weights = np.linspace(0.2, 3, N_ROWS)

    def run(n_workers: int, batch_size: int, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        batches = epoch_batches(N_ROWS, batch_size, 1, 0, weights)[start:]
        loaded = list(make_loader(dataset, 0, batches, n_workers))
        return torch.cat([one[0]["images"] for one in loaded]), torch.cat([one[1] for one in loaded])

    images, labels = run(0, 5)
    for other_images, other_labels in (run(2, 5), run(0, 7)):
        assert torch.equal(images, other_images)
        torch.testing.assert_close(labels, other_labels, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(images[10:], run(0, 5, start=2)[0])


def test_a_transform_with_another_size_than_the_mixing_is_an_error(cache: ImageCache, targets: np.ndarray):
    transform = Transform(16)
    dataset = dataset_of(cache, targets, mixing_of("cutmix"), transform=transform)
    with pytest.raises(ValueError, match=r"16 px.*32 px"):
        dataset[0, 0]


def test_the_mix_of_a_draw_is_the_same_on_every_machine(cache: ImageCache, targets: np.ndarray):
    dataset = dataset_of(cache, targets, mixing_of("mosaic"))
    mix = dataset._sample_mix(2, 3)
    assert (mix.rows.tolist(), mix.cut) == ([15, 10, 3, 3], (13, 15))
