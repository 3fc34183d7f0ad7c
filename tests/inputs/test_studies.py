import pickle

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from cxrlt.challenges.base import VIEWS
from cxrlt.errors import UserError
from cxrlt.inputs.augment import Transform
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.cache_build import build_cache
from cxrlt.inputs.dataset import XRayDataset, make_loader
from cxrlt.inputs.features import FeatureCache, feature_writer, open_features
from cxrlt.inputs.sampling import epoch_batches
from cxrlt.inputs.studies import StudyDataset, study_codes
from user_errors import raises_user_error

SIZE, NAN = 16, np.nan
CLASSES = ["Mass", "Nodule"]
ROWS = [
    ("d", "p1", "s1", "lateral", 1, 0),
    ("a", "p2", "s1", "frontal", 0, NAN),
    ("c", "p1", "s1", "frontal", 1, 0),
    ("e", "p1", None, "frontal", 0, 1),
    ("b", "p2", "s1", "unknown", 0, NAN),
    ("f", "p1", None, "lateral", 0, 0),
    *((f"m{k}", "p3", "s1", "frontal" if k < 3 else "lateral", 1, 1) for k in (5, 0, 3, 1, 4, 2)),
]
STUDIES = {0: ["c", "d"], 1: ["a", "b"], 2: ["e"], 3: ["f"], 4: ["m0", "m1", "m2", "m3", "m4", "m5"]}
TRANSFORM = Transform(SIZE, flip=True, crop_scale=(0.8, 1.0), rotate=10, brightness=0.2, contrast=0.2)


@pytest.fixture
def table() -> pd.DataFrame:
    columns = ["image_id", "patient", "study", "view", *CLASSES]
    return pd.DataFrame(ROWS, columns=columns).set_index("image_id")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    folder = tmp_path_factory.mktemp("images")
    ids = pd.Index([row[0] for row in ROWS], name="image_id")
    files = [str(folder / f"{image_id}.png") for image_id in ids]
    for number, file in enumerate(files):
        cv2.imwrite(file, np.random.default_rng(number).integers(1, 256, (SIZE, SIZE), dtype=np.uint8))
    table = pd.DataFrame({"file": files}, index=ids)
    return build_cache(table, SIZE, folder / "cache", "toy", "train", folder, workers=1)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    directory = tmp_path_factory.mktemp("features")
    with feature_writer(directory, [row[0] for row in ROWS], (2, 3), {}) as writer:
        writer.write(writer.pending, np.arange(1, 6 * len(ROWS) + 1, dtype=np.float32).reshape(-1, 2, 3))
    return open_features(directory)


def studies_of(
    table: pd.DataFrame,
    images: ImageCache | FeatureCache,
    training: bool = False,
    transform: Transform | None = None,
    most: int = 4,
) -> StudyDataset:
    return StudyDataset(
        table, CLASSES, images, max_images=most, seed=1, transform=transform, training=training
    )


def shown(dataset: StudyDataset, table: pd.DataFrame, epoch: int, draw: int) -> list[str]:
    return table.index[dataset.images_of(epoch, draw)].tolist()


def test_a_row_is_a_study_of_a_patient_or_an_image_without_one(table: pd.DataFrame, images: ImageCache):
    dataset = studies_of(table, images, most=6)
    assert len(dataset) == 5
    assert {row: shown(dataset, table, 0, row) for row in range(5)} == STUDIES
    np.testing.assert_array_equal(dataset.targets, [[1, 0], [0, NAN], [0, 1], [0, 0], [1, 1]])


def test_every_image_is_predicted_in_the_row_of_its_study(table: pd.DataFrame, images: ImageCache):
    dataset = studies_of(table, images)
    assert list(dataset.ids) == list(table.index)
    assert dataset.rows_of(["m5", "b", "e", "c", "d"]).tolist() == [4, 1, 2, 0, 0]
    with pytest.raises(UserError, match="stranger"):
        dataset.rows_of(["stranger"])


def test_an_item_holds_the_images_their_views_and_which_places_are_empty(
    table: pd.DataFrame, images: ImageCache
):
    inputs, targets, row = studies_of(table, images)[0, 1]
    assert inputs["images"].shape == (4, 1, SIZE, SIZE) and inputs["images"].dtype == torch.uint8
    for place, name in enumerate(["a", "b"]):
        np.testing.assert_array_equal(inputs["images"][place, 0], images[name])
    assert not inputs["images"][2:].any()
    assert inputs["present"].tolist() == [True, True, False, False]
    assert inputs["views"].dtype == torch.int64
    assert inputs["views"][:2].tolist() == [VIEWS.index("frontal"), VIEWS.index("unknown")]
    np.testing.assert_array_equal(targets, np.float32([0, NAN]))
    assert row == 1


def test_features_take_the_place_of_images(table: pd.DataFrame, features: FeatureCache):
    inputs = studies_of(table, features)[0, 0][0]
    assert inputs["features"].shape == (4, 2, 3) and inputs["features"].dtype == torch.float32
    expected = features.features[features.rows_of(["c", "d"])]
    np.testing.assert_array_equal(inputs["features"][:2], expected)
    assert not inputs["features"][2:].any() and "images" not in inputs


def test_each_image_is_augmented_as_it_would_be_alone(table: pd.DataFrame, images: ImageCache):
    dataset = studies_of(table, images, training=True, transform=TRANSFORM)
    ids = list(table.index)
    targets = table[CLASSES].to_numpy(np.float32)
    alone = XRayDataset(images, ids, targets, seed=1, transform=TRANSFORM)
    for copy in (0, 1):
        seen = dataset[3, 1 + 5 * copy][0]["images"]
        for place, name in enumerate(["a", "b"]):
            expected = alone[3, ids.index(name) + len(ids) * copy][0]["images"]
            assert torch.equal(seen[place], expected)


def test_evaluation_prefers_frontal_then_unknown_then_lateral_images_then_by_id(
    table: pd.DataFrame, images: ImageCache
):
    table.loc["m4", "view"] = "unknown"
    dataset = studies_of(table, images)
    for epoch in range(5):
        assert shown(dataset, table, epoch, 4) == ["m0", "m1", "m2", "m4"]


def test_training_takes_a_random_subset_of_too_many_images(table: pd.DataFrame, images: ImageCache):
    dataset = studies_of(table, images, training=True)
    subsets = [tuple(shown(dataset, table, epoch, 4)) for epoch in range(300)]
    assert all(len(set(names)) == 4 for names in subsets) and len(set(subsets)) == 15
    assert subsets[0] == tuple(shown(dataset, table, 0, 4))
    assert len({tuple(shown(dataset, table, 0, 4 + 5 * copy)) for copy in range(20)}) > 5
    assert shown(dataset, table, 7, 0) == ["c", "d"]


def test_a_subset_is_a_function_of_seed_epoch_and_study_alone(table: pd.DataFrame, images: ImageCache):
    whole = studies_of(table, images, training=True)
    part = table[table["patient"] == "p3"]
    alone = studies_of(part[::-1], images, training=True)
    for epoch in range(10):
        assert shown(whole, table, epoch, 4) == shown(alone, part[::-1], epoch, 0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_batches_of_studies_depend_on_neither_workers_nor_batch_size(table: pd.DataFrame, images: ImageCache):
    dataset = studies_of(table, images, training=True, transform=TRANSFORM)

    def run(n_workers: int, batch_size: int) -> dict[str, torch.Tensor]:
        batches = epoch_batches(5, batch_size, 1, 0, np.array([1.0, 1, 1, 1, 4]))
        loaded = list(make_loader(dataset, 0, batches, n_workers))
        return {name: torch.cat([one[0][name] for one in loaded]) for name in loaded[0][0]}

    expected = run(0, 2)
    assert expected["images"].shape == (5, 4, 1, SIZE, SIZE)
    for other in (run(2, 2), run(0, 5)):
        assert all(torch.equal(other[name], expected[name]) for name in expected)


def test_images_of_a_study_with_different_labels_are_named(table: pd.DataFrame, images: ImageCache):
    table.loc["b", "Nodule"] = 0  # where the other's is unknown
    table.loc["m2", "Mass"] = 0
    with raises_user_error("2 images", "b, m2", "max_images 1"):
        studies_of(table, images)


def test_study_numbers_do_not_cross_patients_and_no_study_is_shared_by_nameless_images(table: pd.DataFrame):
    assert study_codes(table).tolist() == [0, 1, 0, 2, 1, 3, *[4] * 6]
    assert study_codes(table.assign(study=None)).tolist() == list(range(12))


def test_an_image_that_is_not_in_the_cache_is_named(
    table: pd.DataFrame, images: ImageCache, features: FeatureCache
):
    stranger = table.rename(index={"a": "stranger"})
    for cache in (images, features):
        with pytest.raises(UserError, match="stranger"):
            studies_of(stranger, cache)


def test_no_rows_are_no_studies(table: pd.DataFrame, images: ImageCache):
    assert len(studies_of(table[:0], images)) == 0


def test_targets_of_draws_are_those_of_their_studies(table: pd.DataFrame, images: ImageCache):
    targets = studies_of(table, images).targets_of(0, np.array([4, 1 + 5]))
    np.testing.assert_array_equal(targets, np.float32([[1, 1], [0, NAN]]))


def test_a_data_set_of_studies_pickles_without_its_images(table: pd.DataFrame, images: ImageCache):
    dataset = studies_of(table, images, training=True, transform=TRANSFORM)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[2, 4][0]["images"], dataset[2, 4][0]["images"])
    assert len(pickle.dumps(dataset)) < 30_000
