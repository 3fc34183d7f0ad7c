import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.inputs.images import ImageSource

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Toy(Challenge):
    """A challenge with three images in each split."""

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        ids = pd.Index([f"{split}{row}" for row in range(3)], name="image_id")
        columns = {"patient": ids, "study": ids, "view": "frontal", "path": ids + ".png"}
        return pd.DataFrame(columns, index=ids).assign(Mass=np.float32(0))

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        return [f"{split}{row}" for row in range(3)]


@pytest.fixture
def toy() -> Toy:
    return Toy("toy", "Toy", {"Mass": 1}, 3, splits=("train", "dev"), recipes=())


def place_images(workspace: Workspace, *ids: str, grey: int = 9) -> None:
    workspace.images_dir("toy").mkdir(parents=True, exist_ok=True)
    for image_id in ids:
        cv2.imwrite(str(workspace.images_dir("toy") / f"{image_id}.png"), np.full((8, 8), grey, np.uint8))


def test_every_split_gets_a_cache_below_the_cache_folder(tmp_path: Path, toy: Toy):
    workspace = Workspace(tmp_path, cache=tmp_path / "elsewhere")
    place_images(workspace, "train0", "train1", "train2", "dev0", "dev1", "dev2")
    caches = ImageSource(toy, workspace).load_all_splits(8)
    assert list(caches) == ["train", "dev"]
    assert list(caches["dev"].ids) == ["dev0", "dev1", "dev2"]
    assert all(cache.directory.parent == tmp_path / "elsewhere" for cache in caches.values())


def test_a_missing_image_is_an_error_unless_allowed(tmp_path: Path, toy: Toy):
    workspace = Workspace(tmp_path)
    place_images(workspace, "train0", "train2", "dev0", "dev1", "dev2")
    with pytest.raises(UserError, match=r"train1\.png.*--allow-missing"):
        ImageSource(toy, workspace).load_all_splits(8)
    caches = ImageSource(toy, workspace, allow_missing=True).load_all_splits(8)
    assert list(caches["train"].ids) == ["train0", "train2"]


def test_a_split_without_images_is_skipped_if_allowed(
    tmp_path: Path, toy: Toy, capsys: pytest.CaptureFixture[str]
):
    workspace = Workspace(tmp_path)
    place_images(workspace, "train0", "train1", "train2")
    with pytest.raises(UserError, match="toy dev"):
        ImageSource(toy, workspace).load_all_splits(8)
    assert list(ImageSource(toy, workspace, allow_missing=True).load_all_splits(8)) == ["train"]
    assert "toy dev" in capsys.readouterr().err


def test_no_image_at_all_is_an_error_even_if_missing_ones_are_allowed(tmp_path: Path, toy: Toy):
    workspace = Workspace(tmp_path)
    place_images(workspace)
    with pytest.raises(UserError, match="--images"):
        ImageSource(toy, workspace, allow_missing=True).load_all_splits(8)


def test_quarantined_images_leave_the_table_and_the_error_names_a_command_that_exists(
    tmp_path: Path, toy: Toy
):
    workspace = Workspace(tmp_path)
    place_images(workspace, "train0", "train1", "train2")
    (workspace.images_dir("toy") / "train1.png").write_bytes(b"")
    with pytest.raises(UserError, match="cxrlt cache toy --size 8 --quarantine"):
        ImageSource(toy, workspace).load_split("train", 8)
    table, cache = ImageSource(toy, workspace, quarantine=True).load_split("train", 8)
    assert list(table.index) == list(cache.ids) == ["train0", "train2"]


def test_training_reads_the_rows_of_the_folds_from_the_same_cache(tmp_path: Path, toy: Toy):
    workspace = Workspace(tmp_path)
    place_images(workspace, "train0", "train1", "train2")
    source = ImageSource(toy, workspace)
    everything = source.load_split("train", 8)[1]
    table, cache = source.load_train_rows(toy.read("train", tmp_path).loc[["train2", "train0", "train1"]], 8)
    assert cache.directory == everything.directory and list(table.index) == ["train2", "train0", "train1"]


@pytest.mark.skipif("CXRLT_TEST_DATA" not in os.environ, reason="needs real radiographs in $CXRLT_TEST_DATA")
def test_the_real_radiographs_are_cached(tmp_path: Path):
    workspace = Workspace(tmp_path, inputs=Path(os.environ["CXRLT_TEST_DATA"]) / "nih")
    caches = ImageSource(get_challenge("nihlt"), workspace, allow_missing=True).load_all_splits(64)
    assert [len(caches[split].ids) for split in ("train", "dev")] == [1484, 158]
    contrast = caches["train"].images.reshape(1484, -1).std(axis=1)
    assert contrast.min() > 5


def test_duplicate_images_are_reported_each_time(
    tmp_path: Path, toy: Toy, capsys: pytest.CaptureFixture[str]
):
    workspace = Workspace(tmp_path)
    for grey, image_id in enumerate(["train0", "train1", "train2", "dev0", "dev1", "dev2"]):
        place_images(workspace, image_id, grey=20 * grey)
    ImageSource(toy, workspace).load_all_splits(8)
    assert "identical" not in capsys.readouterr().err
    place_images(workspace, "train2", grey=0)
    place_images(workspace, "dev1", grey=20)
    for _ in range(2):
        ImageSource(toy, workspace).load_all_splits(8)
        said = capsys.readouterr().err
        assert "1 training images are identical" in said and "another patient: train0 = train2" in said
        assert "1 images of dev are identical" in said and "of train: train1 = dev1" in said
