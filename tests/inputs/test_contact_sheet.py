from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrlt.inputs.contact_sheet import write_contact_sheet


def test_the_sheet_shows_every_image_in_its_grey_above_its_labels(tmp_path: Path):
    greys = (40, 120, 200)
    images = np.stack([np.full((32, 32), grey, np.uint8) for grey in greys])
    write_contact_sheet(
        tmp_path / "new" / "sheet.png", images, [["Mass"], [], ["Nodule", "Hernia"]], columns=2
    )
    sheet = cv2.imread(str(tmp_path / "new" / "sheet.png"), cv2.IMREAD_GRAYSCALE)
    for grey in greys:
        assert (np.abs(sheet.astype(int) - grey) <= 2).mean() > 0.1
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_images_with_a_channel_axis_make_the_same_sheet(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16), dtype=np.uint8)
    labels = [["Mass"]] * 3
    write_contact_sheet(tmp_path / "a.png", images, labels)
    write_contact_sheet(tmp_path / "b.png", images[:, 0], labels)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png")), cv2.imread(str(tmp_path / "b.png")))


def test_colour_is_shown_as_it_is(tmp_path: Path):
    image = np.zeros((1, 3, 16, 16), np.uint8)
    image[:, 0], image[:, 2] = 200, 90
    write_contact_sheet(tmp_path / "a.png", image, [["Melanoma"]])
    sheet = cv2.cvtColor(cv2.imread(str(tmp_path / "a.png")), cv2.COLOR_BGR2RGB)
    assert (np.abs(sheet.astype(int) - (200, 0, 90)).max(axis=-1) <= 2).mean() > 0.3


def test_labels_change_the_sheet_and_many_labels_make_it_taller(tmp_path: Path):
    image = np.zeros((1, 16, 16), np.uint8)
    sheets = []
    for number, labels in enumerate(
        [["Mass"], ["Edema"], [f"Finding {i}" for i in range(12)], ["costs $5 or $6_"]]
    ):
        write_contact_sheet(tmp_path / f"{number}.png", image, [labels])
        sheets.append(cv2.imread(str(tmp_path / f"{number}.png")))
    assert sheets[0].shape == sheets[1].shape and (sheets[0] != sheets[1]).any()
    assert sheets[2].shape[0] > sheets[0].shape[0]


def test_an_image_without_a_label_list_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="1 label lists"):
        write_contact_sheet(tmp_path / "a.png", np.zeros((2, 8, 8), np.uint8), [["Mass"]])
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8, 2\)"):
        write_contact_sheet(tmp_path / "a.png", np.zeros((1, 2, 8, 8), np.uint8), [["Mass"]])
