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
from cxrlt.inputs.cache_stage import cache_images


@dataclass(frozen=True)
class Toy(Challenge):
    """Three images in each split."""

    def read(self, split: str, inputs_dir: Path) -> pd.DataFrame:
        ids = pd.Index([f"{split}{row}" for row in range(3)], name="image_id")
        columns = {"patient": ids, "study": ids, "view": "frontal", "path": ids + ".png"}
        return pd.DataFrame(columns, index=ids).assign(Mass=np.float32(0))

    def template(self, split: str, inputs_dir: Path) -> list[str]:
        return [f"{split}{row}" for row in range(3)]


@pytest.fixture
def toy() -> Toy:
    return Toy("toy", "Toy", {"Mass": 1}, 3, splits=("train", "dev"), recipes=())


def place_images(workspace: Workspace, *ids: str) -> None:
    workspace.images_dir("toy").mkdir(parents=True, exist_ok=True)
    for image_id in ids:
        cv2.imwrite(str(workspace.images_dir("toy") / f"{image_id}.png"), np.full((8, 8), 9, np.uint8))


def test_every_split_gets_a_cache_below_the_cache_folder(tmp_path: Path, toy: Toy):
    workspace = Workspace(tmp_path, cache=tmp_path / "elsewhere")
    place_images(workspace, "train0", "train1", "train2", "dev0", "dev1", "dev2")
    caches = cache_images(toy, workspace, 8, workers=1)
    assert list(caches) == ["train", "dev"]
    assert list(caches["dev"].ids) == ["dev0", "dev1", "dev2"]
    assert all(cache.directory.parent == tmp_path / "elsewhere" for cache in caches.values())


def test_a_missing_image_is_an_error_unless_allowed(tmp_path: Path, toy: Toy):
    workspace = Workspace(tmp_path)
    place_images(workspace, "train0", "train2", "dev0", "dev1", "dev2")
    with pytest.raises(UserError, match=r"train1\.png.*--allow-missing"):
        cache_images(toy, workspace, 8, workers=1)
    caches = cache_images(toy, workspace, 8, workers=1, allow_missing=True)
    assert list(caches["train"].ids) == ["train0", "train2"]


def test_a_split_without_any_image_is_left_out_if_allowed(
    tmp_path: Path, toy: Toy, capsys: pytest.CaptureFixture[str]
):
    workspace = Workspace(tmp_path)
    place_images(workspace, "train0", "train1", "train2")
    with pytest.raises(UserError, match="toy dev"):
        cache_images(toy, workspace, 8, workers=1)
    assert list(cache_images(toy, workspace, 8, workers=1, allow_missing=True)) == ["train"]
    assert "toy dev" in capsys.readouterr().err


def test_no_image_at_all_is_an_error_even_if_missing_ones_are_allowed(tmp_path: Path, toy: Toy):
    workspace = Workspace(tmp_path)
    place_images(workspace)
    with pytest.raises(UserError, match="--images"):
        cache_images(toy, workspace, 8, workers=1, allow_missing=True)


@pytest.mark.skipif("CXRLT_TEST_DATA" not in os.environ, reason="needs real radiographs in $CXRLT_TEST_DATA")
def test_the_real_radiographs_are_cached(tmp_path: Path):
    workspace = Workspace(tmp_path, inputs=Path(os.environ["CXRLT_TEST_DATA"]) / "nih")
    caches = cache_images(get_challenge("nihlt"), workspace, 64, workers=1, allow_missing=True)
    assert [len(caches[split].ids) for split in ("train", "dev")] == [1484, 158]
    contrast = caches["train"].images.reshape(1484, -1).std(axis=1)
    assert contrast.min() > 5
