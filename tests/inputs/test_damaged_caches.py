"""A damaged cache is reported and built again, never used."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.inputs.cache import ImageCache, open_cache
from cxrlt.inputs.cache_build import build_cache
from cxrlt.inputs.decode import decode
from cxrlt.inputs.features import feature_writer, open_features

pytestmark = pytest.mark.slow

SIZE = 16


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    folder = tmp_path / "images"
    folder.mkdir()
    files = [folder / f"{row}.png" for row in range(8)]
    for row, file in enumerate(files):
        image = np.random.default_rng(row).integers(0, 256, (20, 20), dtype=np.uint8)
        assert cv2.imwrite(str(file), image)
    files[7].write_bytes(b"not a image")
    return pd.DataFrame({"file": map(str, files)}, index=pd.Index([f.stem for f in files], name="image_id"))


@pytest.fixture
def build(tmp_path: Path, table: pd.DataFrame) -> Callable[[], ImageCache]:
    return lambda: build_cache(
        table,
        SIZE,
        tmp_path / "cache",
        "toy",
        "train",
        tmp_path / "images",
        workers=1,
        quarantine=True,
    )


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def without(path: Path, key: str) -> None:
    meta = json.loads(path.read_text())
    del meta[key]
    path.write_text(json.dumps(meta))


DAMAGES = {
    "images cut off": lambda d: cut(d / "images.npy"),
    "images one byte short": lambda d: cut(d / "images.npy", 0.9999),
    "images empty": lambda d: (d / "images.npy").write_bytes(b""),
    "images gone": lambda d: (d / "images.npy").unlink(),
    "images of another size": lambda d: np.save(d / "images.npy", np.zeros((8, 4, 4), np.uint8)),
    "images of another type": lambda d: np.save(d / "images.npy", np.zeros((8, SIZE, SIZE), np.float32)),
    "images in colour": lambda d: np.save(d / "images.npy", np.zeros((8, SIZE, SIZE, 3), np.uint8)),
    "pickled images": lambda d: np.save(d / "images.npy", np.array([{}], object), allow_pickle=True),
    "too few images": lambda d: np.save(d / "images.npy", np.zeros((7, SIZE, SIZE), np.uint8)),
    "thumbs cut off": lambda d: cut(d / "thumbs.npy", 0.9),
    "thumbs of another size": lambda d: np.save(d / "thumbs.npy", np.zeros((8, 4, 4), np.uint8)),
    "hashes cut off": lambda d: cut(d / "hashes.npy", 0.9),
    "hashes of another type": lambda d: np.save(d / "hashes.npy", np.zeros((8, 32))),
    "hashes gone": lambda d: (d / "hashes.npy").unlink(),
    "pickled hashes": lambda d: np.save(d / "hashes.npy", np.array([{}], object), allow_pickle=True),
    "sources cut off": lambda d: cut(d / "sources.npy", 0.9),
    "sources of another type": lambda d: np.save(d / "sources.npy", np.ones((8, 4))),
    "sources too long": lambda d: np.save(d / "sources.npy", np.ones((9, 4), np.int64)),
    "only lengths in sources": lambda d: np.save(d / "sources.npy", np.ones(8, np.int64)),
    "pickled sources": lambda d: np.save(d / "sources.npy", np.array([{}], object), allow_pickle=True),
    "ids cut off": lambda d: cut(d / "ids.csv"),
    "ids empty": lambda d: (d / "ids.csv").write_bytes(b""),
    "an id twice": lambda d: (d / "ids.csv").write_text("image_id\n" + "0\n" * 8),
    "ids without their column": lambda d: (d / "ids.csv").write_text("id\n" + "x\n" * 8),
    "meta cut off": lambda d: cut(d / "meta.json"),
    "meta without the images folder": lambda d: without(d / "meta.json", "images"),
    "meta of something else": lambda d: (d / "meta.json").write_text("[]"),
    "quarantine cut off": lambda d: cut(d / "quarantine.csv", 0.3),
    "quarantine without bytes": lambda d: (d / "quarantine.csv").write_text("image_id,path,reason\n7,x,y\n"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_refused_and_built_again(
    build: Callable[[], ImageCache],
    table: pd.DataFrame,
    damage: Callable[[Path], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = build().directory
    damage(directory)
    with pytest.raises(UserError, match=r"is damaged \(.+\)\. Build it again with: cxrlt cache"):
        open_cache(directory)
    capsys.readouterr()
    cache = build()
    assert "is damaged (" in capsys.readouterr().err
    assert cache.quarantined == ("7",)
    for image_id, file in table["file"].iloc[:7].items():
        np.testing.assert_array_equal(cache[image_id], decode(Path(file), SIZE))
    build()
    assert capsys.readouterr().err == ""


def test_a_cache_with_other_ids_is_built_again(build: Callable[[], ImageCache]) -> None:
    directory = build().directory
    (directory / "ids.csv").write_text("image_id\n" + "".join(f"{row}\n" for row in reversed(range(8))))
    assert build().ids.tolist() == [str(row) for row in range(7)]


FEATURE_DAMAGES = {
    "features cut off": lambda d: cut(d / "features.npy"),
    "features of another type": lambda d: np.save(d / "features.npy", np.zeros((4, 2, 3))),
    "done cut off": lambda d: cut(d / "done.npy", 0.9),
    "done of another type": lambda d: np.save(d / "done.npy", np.ones(4)),
    "pickled done": lambda d: np.save(d / "done.npy", np.array([{}], object), allow_pickle=True),
    "ids cut off": lambda d: cut(d / "ids.csv"),
    "meta cut off": lambda d: cut(d / "meta.json"),
}


@pytest.mark.parametrize("damage", FEATURE_DAMAGES.values(), ids=FEATURE_DAMAGES)
def test_damaged_features_are_computed_again(
    tmp_path: Path, damage: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    ids, features = ["a", "b", "c", "d"], np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    for _ in range(2):
        with feature_writer(tmp_path / "f", ids, (2, 3), {"weights": "f00"}) as writer:
            assert len(writer.pending) == 4
            writer.write(writer.pending, features)
        assert open_features(tmp_path / "f") is not None
        damage(tmp_path / "f")
        assert open_features(tmp_path / "f") is None
    assert "is damaged (" in capsys.readouterr().err


def test_ids_that_pandas_keeps_in_several_pieces_are_the_same_ids(
    build: Callable[[], ImageCache], table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = build().directory
    capsys.readouterr()
    pieces = pd.concat([table.iloc[:3], table.iloc[3:]])
    again = build_cache(pieces, SIZE, tmp_path / "cache", "toy", "train", tmp_path / "images")
    assert again.directory == directory and capsys.readouterr().err == ""
