import multiprocessing
import pickle
import shutil
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrlt.errors import UserError
from cxrlt.inputs.dataset import XRayDataset, make_loader
from cxrlt.inputs.features import feature_writer, features_path, open_features

FORK = multiprocessing.get_context("fork")
IDS = ["b", "NA", "a", "12", "é"]
SHAPE, KEY = (2, 3), {"weights": "f00", "size": 64}


def features_of(ids: list[str]) -> np.ndarray:
    """Return features that are different for every image."""
    return np.stack([np.arange(6, dtype=np.float32).reshape(SHAPE) + 10 * IDS.index(name) for name in ids])


def fill(directory: Path, ids: list[str] = IDS, key: dict = KEY, most: int | None = None) -> int:
    """Write at most `most` rows, one by one. Return how many were pending."""
    with feature_writer(directory, ids, SHAPE, key) as writer:
        pending = writer.pending
        for row in pending[:most]:
            writer.write(np.array([row]), features_of([writer.ids[row]]))
    return len(pending)


def test_features_are_found_by_id_whatever_the_id_looks_like(tmp_path: Path):
    fill(tmp_path / "f")
    cache = open_features(tmp_path / "f")
    assert sorted(cache.ids) == sorted(IDS)
    assert cache.features.shape == (5, *SHAPE) and cache.features.dtype == np.float32
    np.testing.assert_array_equal(
        cache.features[cache.rows_of(["é", "a", "a"])], features_of(["é", "a", "a"])
    )
    with pytest.raises(UserError, match="zebra"):
        cache.rows_of(["a", "zebra"])
    with pytest.raises(ValueError, match="read-only"):
        cache.features[0] = 1


def test_unfinished_features_are_not_believed_and_are_gone_on_with(tmp_path: Path):
    assert open_features(tmp_path / "f") is None
    assert fill(tmp_path / "f", most=3) == 5
    assert open_features(tmp_path / "f") is None
    before = np.load(tmp_path / "f" / "features.npy")
    assert fill(tmp_path / "f") == 2
    after = open_features(tmp_path / "f").features
    written = before.any(axis=(1, 2))
    np.testing.assert_array_equal(after[written], before[written])
    assert fill(tmp_path / "f") == 0


def test_the_order_of_the_ids_does_not_matter(tmp_path: Path):
    assert features_path(tmp_path, "toy", IDS, KEY) == features_path(tmp_path, "toy", IDS[::-1], KEY)
    fill(tmp_path / "f", most=3)
    assert fill(tmp_path / "f", IDS[::-1]) == 2
    cache = open_features(tmp_path / "f")
    np.testing.assert_array_equal(cache.features[cache.rows_of(IDS)], features_of(IDS))


@pytest.mark.parametrize("finished", [False, True])
def test_what_another_key_or_other_ids_left_is_replaced(tmp_path: Path, finished: bool):
    places = {features_path(tmp_path, "t", ids, key) for ids in (IDS, IDS[:4]) for key in (KEY, {"size": 1})}
    assert len(places) == 4
    for ids, key in ((IDS, {"size": 1}), (IDS[:4], KEY)):
        fill(tmp_path / "f", ids, key, most=None if finished else 2)
        assert fill(tmp_path / "f") == 5


def test_a_writer_that_fails_leaves_what_it_wrote(tmp_path: Path):
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        feature_writer(tmp_path / "f", IDS, SHAPE, KEY) as writer,
    ):
        writer.write(np.array([0, 3]), features_of(["12", "b"]))
        raise RuntimeError("out of memory")
    assert fill(tmp_path / "f") == 3


@pytest.mark.parametrize("after", [1, 12])
def test_a_kill_at_any_moment_loses_no_more_than_the_block_under_way(tmp_path: Path, after: int):
    ids = [f"{k:03d}" for k in range(30)]
    here, there = FORK.Pipe()

    def write(told: Connection | None = None) -> None:
        with feature_writer(tmp_path / "f", ids, (4, 8), KEY) as writer:
            for row in writer.pending.tolist():
                writer.write(np.array([row]), np.full((1, 4, 8), row + 1, np.float32))
                if told is not None:
                    told.send(row)
                    told.recv()

    process = FORK.Process(target=write, args=(there,))
    process.start()
    for row in range(after):
        assert here.recv() == row
        here.send("go on")
    process.kill()  # while it is somewhere in the next row
    process.join()
    done = np.load(tmp_path / "f" / "done.npy")
    assert done[:after].all() and not done[after + 1 :].any() and open_features(tmp_path / "f") is None
    assert (np.load(tmp_path / "f" / "features.npy")[done] == np.flatnonzero(done)[:, None, None] + 1).all()
    write()
    assert (open_features(tmp_path / "f").features == np.arange(1, 31)[:, None, None]).all()


def test_of_two_writers_the_second_waits_and_finds_nothing_to_do(tmp_path: Path):
    heard, said = FORK.Pipe(duplex=False)

    def write() -> None:
        said.send("started")
        with feature_writer(tmp_path / "f", IDS, SHAPE, KEY) as writer:
            said.send(len(writer.pending))

    other = FORK.Process(target=write)
    with feature_writer(tmp_path / "f", IDS, SHAPE, KEY) as writer:
        other.start()
        assert heard.recv() == "started" and not heard.poll(0.3)
        writer.write(writer.pending, features_of(list(writer.ids)))
    assert heard.poll(60) and heard.recv() == 0
    other.join()


def test_the_disk_is_told_first_and_a_full_one_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    with feature_writer(tmp_path / "f", IDS, SHAPE, KEY):
        assert "features of 5 of 5 images" in (said := capfd.readouterr().err)
        assert "2 x 3 numbers each, 0.00 GB" in said
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=119))
    with (
        pytest.raises(UserError, match=r"needs 0\.0 GB more.*model\.grid"),
        feature_writer(tmp_path / "g", IDS, SHAPE, KEY),
    ):
        pass
    assert open_features(tmp_path / "g") is None
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=120))
    fill(tmp_path / "g")
    assert open_features(tmp_path / "g") is not None


def test_rows_of_another_shape_are_refused(tmp_path: Path):
    with feature_writer(tmp_path / "f", IDS, SHAPE, KEY) as writer:
        with pytest.raises(ValueError, match=r"\(3, 2\)"):
            writer.write(np.array([0]), np.zeros((1, 3, 2), np.float32))
        with pytest.raises(ValueError, match="row 5"):
            writer.write(np.array([5]), np.zeros((1, 2, 3), np.float32))
        assert len(writer.pending) == 5


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_a_data_set_of_features_gives_those_of_its_ids_in_any_epoch(tmp_path: Path):
    fill(tmp_path / "f")
    ids, targets = ["a", "é", "b"], np.array([[1, 0], [0, np.nan], [1, 1]], np.float32)
    dataset = XRayDataset(open_features(tmp_path / "f"), ids, targets)
    for n_workers in (0, 2):
        (batch,) = make_loader(dataset, 4, [np.array([2, 0, 2 + 3])], n_workers)
        inputs, labels, rows = batch
        assert rows.tolist() == [2, 0, 2] and list(inputs) == ["features"]
        np.testing.assert_array_equal(inputs["features"], features_of(["b", "a", "b"]))
        np.testing.assert_array_equal(labels, targets[[2, 0, 2]])
    np.testing.assert_array_equal(dataset.targets_of(0, np.array([1, 4])), targets[[1, 1]])
    assert dataset.rows_of(["b", "a"]).tolist() == [2, 0] and list(dataset.ids) == ids
    with pytest.raises(UserError, match="stranger"):
        XRayDataset(dataset.reader.cache, ["a", "stranger"], targets[:2])


def test_a_data_set_of_features_pickles_as_its_folder(tmp_path: Path):
    fill(tmp_path / "f")
    dataset = XRayDataset(open_features(tmp_path / "f"), ["a"], np.zeros((1, 2), np.float32))
    assert torch.equal(dataset[0, 0][0]["features"], pickle.loads(pickle.dumps(dataset))[0, 0][0]["features"])
    assert len(pickle.dumps(dataset)) < 10_000
