import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cxrlt.inputs.decode import UnreadableImageError, decode


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a uint8 image like a radiograph: smooth shapes over all grey levels."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 12), None, 0, 255, cv2.NORM_MINMAX)


def save(path: Path, image: np.ndarray, *options: int) -> Path:
    assert cv2.imwrite(str(path), image, options)
    return path


@pytest.fixture
def image() -> np.ndarray:
    return smooth(90, 100)


def test_a_grey_png_of_the_target_size_does_not_change(tmp_path: Path):
    image = smooth(64, 64)
    np.testing.assert_array_equal(decode(save(tmp_path / "a.png", image), 64), image)


def test_an_image_is_resized_to_a_square_without_cropping(tmp_path: Path):
    image = np.full((64, 128), 100, np.uint8)
    image[:, :8] = 250  # an apex at the far left
    image[:, -8:] = 10  # a costophrenic angle at the far right
    grey = decode(save(tmp_path / "a.png", image), 32)
    assert grey.shape == (32, 32) and grey.dtype == np.uint8
    assert (grey[:, :2] == 250).all() and (grey[:, -2:] == 10).all()


def test_shrinking_averages_areas(tmp_path: Path):
    checkerboard = np.indices((64, 64)).sum(axis=0) % 2 * 200
    grey = decode(save(tmp_path / "a.png", checkerboard.astype(np.uint8)), 32)
    assert (grey == 100).all()


def test_enlarging_is_linear(tmp_path: Path):
    ramp = np.repeat(np.linspace(0, 255, 16).astype(np.uint8)[None], 16, axis=0)
    grey = decode(save(tmp_path / "a.png", ramp), 64)
    assert len(np.unique(grey[0])) > 48
    assert (np.diff(grey[0].astype(int)) >= 0).all()


def test_a_tall_narrow_image_shrinks_one_way_and_grows_the_other(tmp_path: Path):
    stripes = np.repeat((np.arange(128) % 2 * 200).astype(np.uint8)[:, None], 16, axis=1)
    assert (decode(save(tmp_path / "a.png", stripes), 64) == 100).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_and_alpha_of_a_grey_png_change_nothing(tmp_path: Path, image: np.ndarray, channels: int):
    planes = [image] * 3 + [np.full_like(image, 255)] * (channels - 3)
    grey = decode(save(tmp_path / "a.png", np.dstack(planes)), 48)
    np.testing.assert_array_equal(grey, decode(save(tmp_path / "b.png", image), 48))


def test_a_transparent_pixel_keeps_its_grey(tmp_path: Path, image: np.ndarray):
    rgba = np.dstack([image] * 3 + [np.zeros_like(image)])
    grey = decode(save(tmp_path / "a.png", rgba), 48)
    np.testing.assert_array_equal(grey, decode(save(tmp_path / "b.png", image), 48))


@pytest.mark.parametrize("mode", ["LA", "P", "1"])
def test_rarer_kinds_of_png_are_read(tmp_path: Path, mode: str):
    black_and_white = np.where(np.indices((40, 40))[0] < 20, 0, 255).astype(np.uint8)
    Image.fromarray(black_and_white).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 40), black_and_white)


RED, GREEN, BLUE = (204, 51, 51), (51, 204, 51), (51, 51, 204)  # which a palette has too


def save_stripes(path: Path, mode: str = "RGB") -> Path:
    """Save an image of a red, a green and a blue stripe, each 32 pixels wide."""
    stripes = np.repeat(np.array([[RED, GREEN, BLUE]], np.uint8), 32, axis=1).repeat(96, axis=0)
    options = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(stripes).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", "RGB"), ("a.png", "RGBA"), ("a.png", "P"), ("a.jpg", "RGB")]
)
@pytest.mark.parametrize("size", [96, 48, 12])
def test_three_channels_are_red_green_and_blue_in_that_order(tmp_path: Path, name: str, mode: str, size: int):
    image = decode(save_stripes(tmp_path / name, mode), size, channels=3)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    middles = image[size // 2, [size // 6, size // 2, size - size // 6]]
    assert np.abs(middles.astype(int) - (RED, GREEN, BLUE)).max() <= 3


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_grey_file_is_repeated_in_three_channels(tmp_path: Path, image: np.ndarray, name: str):
    path = save(tmp_path / name, image)
    np.testing.assert_array_equal(decode(path, 48, channels=3), np.dstack([decode(path, 48)] * 3))


def test_the_window_of_a_16_bit_colour_png_keeps_the_colours_apart(tmp_path: Path, image: np.ndarray):
    red, green = image.astype(np.uint16) * 200, image.astype(np.uint16) * 100
    image = decode(save(tmp_path / "a.png", np.dstack([np.zeros_like(red), green, red])), 48, channels=3)
    assert image[..., 0].max() == 255 and image[..., 2].max() == 0
    inside = image[..., 0] < 255
    assert inside.mean() > 0.9
    np.testing.assert_allclose(image[inside, 1].astype(float) * 2, image[inside, 0], atol=3)


def test_a_colour_jpeg_becomes_its_luminance(tmp_path: Path, image: np.ndarray):
    colour = np.dstack([image // 2, image, 255 - image])
    grey = decode(save(tmp_path / "a.jpg", colour, cv2.IMWRITE_JPEG_QUALITY, 100), 90)
    expected = cv2.resize(cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY), (90, 90), interpolation=cv2.INTER_AREA)
    assert np.abs(grey.astype(int) - expected).max() <= 4


@pytest.mark.parametrize(("size", "factor"), [(512, 1), (451, 1), (450, 2), (256, 2), (225, 4), (113, 8)])
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_is_not_below_the_target(
    tmp_path: Path, size: int, factor: int
):
    path = save(tmp_path / "a.jpg", smooth(900, 1000))
    flags = {f: getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{f}") for f in (2, 4, 8)} | {1: cv2.IMREAD_GRAYSCALE}
    reduced = cv2.imread(str(path), flags[factor])
    assert min(reduced.shape) >= size
    expected = cv2.resize(reduced, (size, size), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(decode(path, size), expected)


@pytest.mark.parametrize("size", [512, 256, 128])
def test_a_reduced_decode_stays_close_to_the_full_one(tmp_path: Path, size: int):
    path = save(tmp_path / "a.jpg", smooth(900, 1000))
    full = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    expected = cv2.resize(full, (size, size), interpolation=cv2.INTER_AREA)
    difference = np.abs(decode(path, size).astype(int) - expected)
    assert difference.mean() < 1 and difference.max() <= 5


def test_the_shape_of_a_jpeg_is_not_that_of_its_thumbnail(tmp_path: Path, image: np.ndarray):
    whole = save(tmp_path / "a.jpg", smooth(400, 400)).read_bytes()
    thumbnail = save(tmp_path / "t.jpg", smooth(20, 20)).read_bytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2, "big") + b"Exif\0\0" + thumbnail
    (tmp_path / "b.jpg").write_bytes(whole[:2] + segment + whole[2:])
    np.testing.assert_array_equal(decode(tmp_path / "b.jpg", 100), decode(tmp_path / "a.jpg", 100))


@pytest.mark.parametrize("shift", [0, 4])
def test_sixteen_bits_are_windowed_so_that_12_bits_look_like_16(
    tmp_path: Path, image: np.ndarray, shift: int
):
    deep = (image.astype(np.uint16) * 16) << shift
    grey = decode(save(tmp_path / "a.png", deep), 90)
    low, high = np.percentile(deep, [0.5, 99.5])
    window = (np.clip((deep - low) / (high - low), 0, 1) * 255).astype(np.float32)
    expected = cv2.resize(window, (90, 90), interpolation=cv2.INTER_AREA)
    assert np.abs(grey - expected).max() <= 2
    assert grey.min() == 0 and grey.max() == 255


def test_the_window_keeps_contrast_that_dropping_bits_would_lose(tmp_path: Path):
    image = (1000 + np.indices((64, 64))[1] * 2).astype(np.uint16)  # 126 greys within one upper byte or two
    image[0, 0] = 65535  # a burned-in marker
    grey = decode(save(tmp_path / "a.png", image), 64)
    assert len(np.unique(image >> 8)) <= 3
    assert len(np.unique(grey)) > 50


def test_a_sixteen_bit_colour_png_equals_its_grey_one(tmp_path: Path, image: np.ndarray):
    deep = image.astype(np.uint16) * 200
    grey = decode(save(tmp_path / "a.png", np.dstack([deep] * 3)), 50)
    np.testing.assert_array_equal(grey, decode(save(tmp_path / "b.png", deep), 50))


def test_a_sixteen_bit_image_of_one_grey_is_black_and_of_two_keeps_both(tmp_path: Path):
    image = np.full((64, 64), 3000, np.uint16)
    assert (decode(save(tmp_path / "a.png", image), 64) == 0).all()
    image[5, 5] = 3100
    grey = decode(save(tmp_path / "b.png", image), 64)
    assert grey[5, 5] == 255 and np.count_nonzero(grey) == 1


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(("suffix", "kind"), [("png", "PNG"), ("jpg", "JPEG")])
def test_a_truncated_file_is_an_error_with_its_path(
    tmp_path: Path, image: np.ndarray, suffix: str, kind: str, kept: float
):
    path = save(tmp_path / f"a.{suffix}", image)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UnreadableImageError, match=str(path)) as caught:
        decode(path, 32)
    assert caught.value.path == path
    assert caught.value.reason in ("the file is empty", f"the {kind} ends early")


def test_a_changed_byte_in_a_png_is_noticed(tmp_path: Path, image: np.ndarray):
    path = save(tmp_path / "a.png", image)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match="checksum"):
        decode(path, 32)


def test_a_png_with_valid_chunks_and_invalid_pixels_is_an_error(tmp_path: Path, image: np.ndarray):
    data = save(tmp_path / "a.png", image).read_bytes()
    body = b"IDAT" + b"not a zlib stream"
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[-12:])
    with pytest.raises(UnreadableImageError):
        decode(tmp_path / "a.png", 32)


def test_padding_after_the_end_of_a_jpeg_is_harmless(tmp_path: Path, image: np.ndarray):
    path = save(tmp_path / "a.jpg", image)
    expected = decode(path, 32)
    path.write_bytes(path.read_bytes() + bytes(700))
    np.testing.assert_array_equal(decode(path, 32), expected)


@pytest.mark.parametrize("content", [b"GIF89a", b"<html>Sign in</html>", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"])
def test_a_file_of_another_kind_is_an_error(tmp_path: Path, content: bytes):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImageError):
        decode(tmp_path / "a.jpg", 32)


def test_a_missing_file_is_an_error_with_its_path(tmp_path: Path):
    with pytest.raises(UnreadableImageError, match=r"absent\.png: No such file"):
        decode(tmp_path / "absent.png", 32)


def test_a_path_with_spaces_and_accents_is_read(tmp_path: Path, image: np.ndarray):
    folder = tmp_path / "rayos x, tórax"
    folder.mkdir()
    data = save(tmp_path / "a.png", image).read_bytes()
    (folder / "é.png").write_bytes(data)
    np.testing.assert_array_equal(decode(folder / "é.png", 32), decode(tmp_path / "a.png", 32))
