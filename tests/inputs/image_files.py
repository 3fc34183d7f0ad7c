"""Image files of every kind: valid ones, and invalid ones with the expected reason."""

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

REAL = sorted(Path(os.environ.get("CXRLT_TEST_DATA", "/nonexistent")).glob("nih/images/*.png"))[:4]


def radiograph(height: int = 120, width: int = 100) -> np.ndarray:
    """Return smooth shapes over all grey levels, with enough noise for files of some KB."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height, width), dtype=np.uint8)
    soft = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 8), None, 20, 235, cv2.NORM_MINMAX)
    return np.clip(soft + rng.normal(0, 4, soft.shape), 0, 255).astype(np.uint8)


def pillow(image: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    pil_image = Image.fromarray(image)
    (pil_image.convert(mode) if mode else pil_image).save(file, kind, **options)
    return file.getvalue()


def opencv(image: np.ndarray, suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int,
    height: int,
    pixels: bytes,
    extra: bytes = b"",
    depth: int = 8,
    colour: int = 0,
    adam7: int = 0,
) -> bytes:
    """Return a PNG with this header; `pixels` is the content of its only IDAT chunk."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, adam7)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def interlaced(image: np.ndarray) -> bytes:
    """Return an interlaced PNG (Adam7), which neither library writes."""
    starts = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    passes = [image[top::down, left::right] for top, left, down, right in starts]
    rows = b"".join(b"\0" + row.tobytes() for part in passes for row in part if row.size)
    return png(image.shape[1], image.shape[0], zlib.compress(rows), adam7=1)


def with_frame(jpeg: bytes, height: int, width: int, marker: int | None = None, bits: int = 8) -> bytes:
    """Return the JPEG with another frame header."""
    at = next(i for kind in (0xC0, 0xC2) if (i := jpeg.find(bytes([0xFF, kind]))) > 0)
    changed = bytearray(jpeg)
    changed[at + 1] = marker or jpeg[at + 1]
    changed[at + 4 : at + 9] = struct.pack(">BHH", bits, height, width)
    return bytes(changed)


RADIOGRAPH = radiograph()
DEEP = RADIOGRAPH.astype(np.uint16) * 200
COLOUR = np.dstack([RADIOGRAPH, RADIOGRAPH // 2, 255 - RADIOGRAPH])
JPEG, PROGRESSIVE = pillow(RADIOGRAPH, "JPEG"), pillow(RADIOGRAPH, "JPEG", progressive=True)
GREY_PNG = opencv(RADIOGRAPH, ".png")
VALID_FILES: dict[str, bytes] = {
    "baseline.jpg": JPEG,
    "progressive.jpg": PROGRESSIVE,
    "colour.jpg": pillow(COLOUR, "JPEG"),
    "progressive_colour.jpg": pillow(COLOUR, "JPEG", progressive=True),
    "restarts.jpg": opencv(RADIOGRAPH, ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
    "cmyk.jpg": (CMYK := pillow(RADIOGRAPH, "JPEG", "CMYK")),
    "ycck.jpg": CMYK[: (at := CMYK.index(b"Adobe") + 11)] + b"\2" + CMYK[at + 1 :],
    "grey.png": GREY_PNG,
    "interlaced.png": interlaced(RADIOGRAPH),
    "sixteen.png": opencv(DEEP, ".png"),
    "sixteen_colour.png": opencv(np.dstack([DEEP] * 3), ".png"),
    "palette.png": pillow(RADIOGRAPH, "PNG", "P"),
    "transparent_palette.png": pillow(RADIOGRAPH, "PNG", "P", transparency=bytes(range(256))),
    "transparent_grey.png": pillow(RADIOGRAPH, "PNG", transparency=3),
    "bits.png": pillow(RADIOGRAPH, "PNG", "1"),
    "alpha.png": pillow(COLOUR, "PNG", "RGBA"),
    "grey_alpha.png": pillow(RADIOGRAPH, "PNG", "LA"),
} | {path.name: path.read_bytes() for path in REAL}
ANIMATION = {"save_all": True, "append_images": [Image.fromarray(255 - RADIOGRAPH)]}
INFLATED = zlib.compress(bytes(1 << 26), 9)
OK_ROWS = zlib.compress(b"".join(b"\0" + bytes(10) for _ in range(10)))
INVALID_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "gif": (pillow(RADIOGRAPH, "GIF", **ANIMATION), "neither a JPEG nor a PNG"),
    "webp": (pillow(RADIOGRAPH, "WEBP"), "neither a JPEG nor a PNG"),
    "moving webp": (pillow(RADIOGRAPH, "WEBP", **ANIMATION), "neither a JPEG nor a PNG"),
    "tiff": (pillow(RADIOGRAPH, "TIFF"), "neither a JPEG nor a PNG"),
    "bmp": (pillow(RADIOGRAPH, "BMP"), "neither a JPEG nor a PNG"),
    "jpeg 2000": (pillow(RADIOGRAPH, "JPEG2000"), "neither a JPEG nor a PNG"),
    "dicom": (bytes(128) + b"DICM" + bytes(500), "neither a JPEG nor a PNG"),
    "web page": (b"<!DOCTYPE html><html>Sign in</html>", "neither a JPEG nor a PNG"),
    "link of git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "neither a JPEG nor a PNG"),
    "moving png": (pillow(RADIOGRAPH, "PNG", **ANIMATION), "an animated PNG"),
    "png of 30000 x 30000": (png(30000, 30000, OK_ROWS), "claims 30000 x 30000 pixels"),
    "png of 2^31 - 1": (png(2**31 - 1, 2**31 - 1, OK_ROWS), "claims 2147483647 x 2147483647"),
    "png without width": (png(0, 10, OK_ROWS), "claims 0 x 10 pixels"),
    "wide png": (png(2_000_000, 1, OK_ROWS), "OpenCV|cannot be decoded"),
    "jpeg of 30000 x 30000": (with_frame(JPEG, 30000, 30000), "claims 30000 x 30000 pixels"),
    "progressive 30000": (with_frame(PROGRESSIVE, 30000, 30000), "claims 30000 x 30000 pixels"),
    "jpeg of 65535 x 65535": (with_frame(JPEG, 65535, 65535), "claims 65535 x 65535 pixels"),
    "jpeg of 0 x 0": (with_frame(JPEG, 0, 0), "claims 0 x 0 pixels"),
    "jpeg without height": (with_frame(JPEG, 0, 100), "claims 100 x 0 pixels"),
    "12 bits": (with_frame(JPEG, 120, 100, 0xC1, bits=12), "a JPEG of 12 bits, not 8"),
    "16 bits": (with_frame(JPEG, 120, 100, 0xC3, bits=16), "a JPEG of 16 bits, not 8"),
    "called lossless": (with_frame(JPEG, 120, 100, 0xC3), "cannot be decoded|damaged"),
    "called arithmetic": (with_frame(JPEG, 120, 100, 0xC9), "cannot be decoded|damaged"),
    "called hierarchical": (with_frame(JPEG, 120, 100, 0xC5), "cannot be decoded|damaged"),
    "larger than its data": (with_frame(JPEG, 1200, 1000), "damaged: libjpeg reports 'Corrupt JPEG data"),
    "smaller than its data": (with_frame(JPEG, 16, 16), "damaged: libjpeg reports 'Corrupt JPEG data"),
    "endless scans": (PROGRESSIVE[:-2] + PROGRESSIVE[PROGRESSIVE.rfind(b"\xff\xda") :] * 200, "100 scans"),
    "bomb of pixels": (png(10, 10, INFLATED), "more data than its header says"),
    "too few pixels": (png(10, 99, OK_ROWS), "cannot be decoded"),
    "bad filter": (png(10, 10, zlib.compress(b"\x09" * 110)), "cannot be decoded"),
    "wrong sum of pixels": (png(10, 10, OK_ROWS[:-4] + b"abcd"), "cannot be decoded"),
    "no stream of pixels": (png(10, 10, b"no zlib stream"), "cannot be decoded"),
    "palette missing": (png(10, 10, OK_ROWS, colour=3), "cannot be decoded"),
    "colour type 5": (png(10, 10, OK_ROWS, colour=5), "cannot be decoded"),
    "unknown critical chunk": (png(10, 10, OK_ROWS, extra=chunk(b"ABCD", b"")), "cannot be decoded"),
    "header second": (GREY_PNG[:8] + chunk(b"tEXt", b"a\0b") + GREY_PNG[8:], "begin with a header"),
}
