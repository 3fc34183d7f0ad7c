import runpy
from pathlib import Path

import cv2
import pytest

from cxrlt.errors import UserError
from cxrlt.phantom.demo import make_demo

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
demo_contact_sheet = runpy.run_path(str(ROOT / "tools" / "demo_contact_sheet.py"))["demo_contact_sheet"]


def test_the_sheet_shows_each_class_and_two_hard_normals(tmp_path: Path) -> None:
    make_demo(tmp_path / "demo", 60, workers=1)
    demo_contact_sheet(tmp_path / "demo", tmp_path / "sheet.png", cell=64)
    sheet = cv2.imread(str(tmp_path / "sheet.png"), cv2.IMREAD_UNCHANGED)
    assert sheet.shape == (4 * (64 + 18), 7 * 64)
    assert sheet[18:].std() > 20


def test_a_demo_without_an_example_is_an_error(tmp_path: Path) -> None:
    make_demo(tmp_path / "demo", 3, workers=1)
    with pytest.raises(UserError, match="--patients"):
        demo_contact_sheet(tmp_path / "demo", tmp_path / "sheet.png", cell=200)
