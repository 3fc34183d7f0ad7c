import multiprocessing
import pickle

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxrlt.errors import UserError
from cxrlt.inputs.augment import Transform
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.cache_build import build_cache
from cxrlt.inputs.dataset import XRayDataset, make_loader, micro_batches_of_rank
from cxrlt.inputs.sampling import epoch_batches

pytestmark = pytest.mark.slow

SIZE, N_ROWS, N_CLASSES = 16, 23, 3
AUGMENTATION = {
    "flip": True,
    "crop_scale": (0.8, 1.0),
    "rotate": 10.0,
    "brightness": 0.2,
    "contrast": 0.2,
    "erase": 0.3,
}
TRANSFORM = Transform(SIZE, **AUGMENTATION)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    folder = tmp_path_factory.mktemp("images")
    ids = pd.Index([f"image{row}" for row in range(N_ROWS)], name="image_id")
    files = [str(folder / f"{image_id}.png") for image_id in ids]
    for row, file in enumerate(files):
        cv2.imwrite(file, np.random.default_rng(row).integers(0, 256, (SIZE, SIZE), dtype=np.uint8))
    table = pd.DataFrame({"file": files}, index=ids)
    return build_cache(table, SIZE, folder / "cache", "toy", "train", folder, workers=1)


@pytest.fixture
def targets() -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 2, (N_ROWS, N_CLASSES)).astype(np.float32)
    values[4, 1] = np.nan
    return values


@pytest.fixture
def dataset(cache: ImageCache, targets: np.ndarray) -> XRayDataset:
    return XRayDataset(cache, list(cache.ids), targets, seed=1, transform=TRANSFORM)


def run_epoch(
    dataset: XRayDataset, epoch: int, n_workers: int, start: int = 0
) -> list[tuple[torch.Tensor, ...]]:
    batches = epoch_batches(len(dataset), 4, seed=1, epoch=epoch)[start:]
    loader = make_loader(dataset, epoch, batches, n_workers)
    return [(inputs["images"], labels, rows) for inputs, labels, rows in loader]


def assert_same_batches(one: list[tuple[torch.Tensor, ...]], two: list[tuple[torch.Tensor, ...]]) -> None:
    assert len(one) == len(two) > 0
    for (images, labels, rows), (other_images, other_labels, other_rows) in zip(one, two, strict=True):
        assert torch.equal(rows, other_rows) and torch.equal(images, other_images)
        torch.testing.assert_close(labels, other_labels, rtol=0, atol=0, equal_nan=True)


def test_an_item_is_a_grey_image_its_targets_and_its_row(cache: ImageCache, targets: np.ndarray):
    ids = list(cache.ids)[::-1]
    inputs, labels, row = XRayDataset(cache, ids, targets[::-1])[0, 5]
    (image,) = inputs.values()
    assert image.shape == (1, SIZE, SIZE) and image.dtype == torch.uint8 and row == 5
    np.testing.assert_array_equal(image[0], cache[ids[5]])
    assert labels.dtype == torch.float32
    np.testing.assert_array_equal(labels, targets[::-1][5])


@pytest.mark.parametrize(("size", "first"), [(16, 0), (12, 2), (11, 2), (1, 7)])
def test_a_smaller_size_is_the_middle_of_the_cached_image(
    cache: ImageCache, targets: np.ndarray, size: int, first: int
):
    image = XRayDataset(cache, list(cache.ids), targets, size=size)[0, 4][0]["images"]
    middle = slice(first, first + size)
    np.testing.assert_array_equal(image[0], cache[cache.ids[4]][middle, middle])


def test_the_middle_is_cut_out_before_the_augmentation(cache: ImageCache, targets: np.ndarray):
    ids, transform = list(cache.ids), Transform(12, **AUGMENTATION)
    dataset = XRayDataset(cache, ids, targets, seed=1, transform=transform, size=12)
    expected = transform(np.ascontiguousarray(cache[ids[4]][2:14, 2:14]), dataset.augmentation_seed(3, 4))
    np.testing.assert_array_equal(dataset[3, 4][0]["images"][0], expected)


def test_colour_images_have_three_equally_augmented_channels(cache: ImageCache, targets: np.ndarray):
    table = pd.DataFrame(
        {"file": [f"{cache.directory.parents[1]}/{name}.png" for name in cache.ids]}, cache.ids
    )
    places = (SIZE, cache.directory.parent, "toy", "train", cache.directory.parents[1])
    colour = build_cache(table, *places, channels=3, workers=1)
    grey, planes = (
        XRayDataset(one, list(cache.ids), targets, seed=1, transform=TRANSFORM) for one in (cache, colour)
    )
    for row in range(N_ROWS):
        image = planes[2, row][0]["images"]
        assert image.shape == (3, SIZE, SIZE) and image.dtype == torch.uint8 and image.is_contiguous()
        assert torch.equal(image, grey[2, row][0]["images"].expand(3, -1, -1))


def test_a_size_larger_than_the_cache_is_an_error(cache: ImageCache, targets: np.ndarray):
    with pytest.raises(ValueError, match="cannot crop 17 px from cached images of 16 px"):
        XRayDataset(cache, list(cache.ids), targets, size=17)


def test_augmentation_depends_only_on_seed_epoch_and_id(cache: ImageCache, targets: np.ndarray):
    ids = list(cache.ids)

    def item(row: int, epoch: int, seed: int, ids: list[str]) -> bytes:
        dataset = XRayDataset(cache, ids, targets[: len(ids)], seed=seed, transform=TRANSFORM)
        return dataset[epoch, row][0]["images"].numpy().tobytes()

    assert item(7, epoch=2, seed=1, ids=ids) == item(0, epoch=2, seed=1, ids=ids[7:])
    assert item(7, epoch=2, seed=1, ids=ids) != item(7, epoch=3, seed=1, ids=ids)
    assert item(7, epoch=2, seed=1, ids=ids) != item(7, epoch=2, seed=2, ids=ids)


def test_no_two_images_of_an_epoch_share_their_augmentation(dataset: XRayDataset):
    seeds = {dataset.augmentation_seed(epoch, row) for epoch in range(20) for row in range(N_ROWS)}
    assert len(seeds) == 20 * N_ROWS


def test_copies_of_a_row_are_augmented_differently(dataset: XRayDataset):
    draws = [9 + N_ROWS * copy for copy in range(4)]
    items = [dataset[2, draw] for draw in draws]
    assert [row for _, _, row in items] == [9] * 4
    assert len({inputs["images"].numpy().tobytes() for inputs, _, _ in items}) == 4
    np.testing.assert_array_equal(dataset.targets_of(2, np.array(draws)), dataset.targets[[9] * 4])


def test_images_are_predicted_in_the_rows_of_their_ids(dataset: XRayDataset):
    assert dataset.rows_of(["image3", "image0"]).tolist() == [
        list(dataset.ids).index("image3"),
        list(dataset.ids).index("image0"),
    ]
    with pytest.raises(UserError, match="stranger"):
        dataset.rows_of(["stranger"])


def test_the_augmentation_seed_is_the_same_on_every_machine(cache: ImageCache, targets: np.ndarray):
    dataset = XRayDataset(cache, ["image3"], targets[:1], seed=1)
    assert dataset.augmentation_seed(epoch=2, draw=0) == 2312809103102000465


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("epoch", [0, 3])
def test_none_and_four_workers_give_the_same_batches(dataset: XRayDataset, epoch: int):
    assert_same_batches(run_epoch(dataset, epoch, 0), run_epoch(dataset, epoch, 4))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("n_workers", [0, 4])
def test_a_resumed_epoch_has_the_same_batches(dataset: XRayDataset, n_workers: int):
    whole = run_epoch(dataset, 1, 0)
    assert_same_batches(whole[3:], run_epoch(dataset, 1, n_workers, start=3))


def test_the_next_epoch_has_another_order_and_another_augmentation(dataset: XRayDataset):
    first, second = run_epoch(dataset, 0, 0), run_epoch(dataset, 1, 0)
    images = [
        {int(row): image for batch in run for image, row in zip(batch[0], batch[2], strict=True)}
        for run in (first, second)
    ]
    assert [row for batch in first for row in batch[2]] != [row for batch in second for row in batch[2]]
    assert sum(torch.equal(images[0][row], images[1][row]) for row in range(N_ROWS)) == 0


def test_loading_leaves_the_global_random_state_alone(dataset: XRayDataset):
    before = torch.get_rng_state()
    run_epoch(dataset, 0, 0)
    run_epoch(dataset, 0, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_spawned_workers_give_the_same_items(dataset: XRayDataset):
    expected = dataset[1, 3]  # also opens the cache here
    assert len(pickle.dumps(dataset)) < 30_000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        inputs, labels, row = pool.apply(dataset.__getitem__, [(1, 3)])
    assert torch.equal(inputs["images"], expected[0]["images"])
    assert torch.equal(labels, expected[1]) and row == 3


@pytest.mark.parametrize("n_workers", [0, 2])
def test_an_error_in_a_worker_reaches_the_caller(dataset: XRayDataset, n_workers: int):
    dataset.reader.cache_rows = np.where(np.arange(N_ROWS) == 9, 10**6, dataset.reader.cache_rows)
    batches = iter(make_loader(dataset, 0, [np.array([1, 2]), np.array([9, 3]), np.array([4])], n_workers))
    assert next(batches)[2].tolist() == [1, 2]
    with pytest.raises(IndexError):
        next(batches)
    if n_workers:
        batches._shutdown_workers()  # garbage collection would wait five seconds for each


def test_an_id_that_is_not_in_the_cache_is_named_before_training(cache: ImageCache, targets: np.ndarray):
    with pytest.raises(UserError, match="stranger"):
        XRayDataset(cache, ["image0", "stranger"], targets[:2])


def test_targets_of_another_length_are_refused(cache: ImageCache, targets: np.ndarray):
    with pytest.raises(ValueError, match="2 ids"):
        XRayDataset(cache, ["image0", "image1"], targets[:3])


@pytest.mark.parametrize(("n_rows", "batch_size"), [(1, 8), (8, 8), (9, 8), (23, 4), (1000, 32)])
def test_an_epoch_is_every_row_once_in_batches_of_nearly_one_size(n_rows: int, batch_size: int):
    batches = epoch_batches(n_rows, batch_size, seed=0, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(n_rows))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    assert len(batches) == -(-n_rows // batch_size)


def test_the_order_depends_only_on_seed_and_epoch():
    def order(seed: int, epoch: int, batch_size: int = 8) -> list[int]:
        return np.concatenate(epoch_batches(100, batch_size, seed, epoch)).tolist()

    assert order(0, 1) == order(0, 1) == order(0, 1, batch_size=32)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("max_batch_per_device", [2, 3, 5, 64])
def test_the_ranks_together_see_every_row_of_an_epoch_once(world: int, max_batch_per_device: int):
    for batch in epoch_batches(101, 18, seed=0, epoch=0):
        shares = [micro_batches_of_rank(batch, rank, world, max_batch_per_device) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1  # all ranks take part in every forward pass
        micro_batches = [micro for share in shares for micro in share]
        assert all(0 < len(micro) <= max_batch_per_device for micro in micro_batches)
        assert np.concatenate(micro_batches).tolist() == batch.tolist()


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("limit", [1, 2, 3, 64])
def test_no_micro_batch_is_smaller_than_the_minimum(world: int, limit: int):
    for n in range(2 * world, 40):
        shares = [
            micro_batches_of_rank(np.arange(n), rank, world, limit, min_micro_batch_size=2)
            for rank in range(world)
        ]
        assert len({len(share) for share in shares}) == 1
        micro_batches = [micro for share in shares for micro in share]
        assert all(1 < len(micro) <= max(limit, 4) for micro in micro_batches)
        assert np.concatenate(micro_batches).tolist() == list(range(n))


@pytest.mark.parametrize(("n", "world", "limit"), [(3, 4, 8), (7, 2, 1)])
def test_a_batch_too_small_for_all_ranks_is_an_error(n: int, world: int, limit: int):
    with pytest.raises(UserError, match="batch_size"):
        micro_batches_of_rank(np.arange(n), 0, world, limit)
