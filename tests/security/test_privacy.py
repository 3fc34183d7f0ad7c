"""Patient identifiers stay in the user's files, and nothing is sent over a network."""

import io
import socket
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrlt import cli
from cxrlt.recipe import save_recipe
from tiny import make_tiny, tiny_recipe

pytestmark = pytest.mark.slow

SECRET = "Hoffmann^Erika-19530417"
PATIENT = "Pat7Q"


@dataclass(frozen=True)
class Outputs:
    """Files that the pipeline wrote below `root` (without the inputs), and its printed output."""

    root: Path
    printed: str

    @property
    def files(self) -> list[Path]:
        inputs_dir = self.root / "inputs" / "csv"
        found = [path for path in self.root.rglob("*") if path.is_file()]
        return sorted(path for path in found if not path.is_relative_to(inputs_dir))

    def files_containing(self, text: str) -> list[str]:
        """Return the files whose (uncompressed) content has the text."""
        return [
            path.relative_to(self.root).as_posix()
            for path in self.files
            if any(form in content for content in file_contents(path) for form in encodings(text))
        ]


def encodings(text: str) -> list[bytes]:
    return [text.encode(), text.encode("utf-16-le"), text.encode("utf-16-be")]


def file_contents(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes and its uncompressed contents."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield table.to_pandas().to_csv().encode()
        yield repr(table.schema.metadata).encode()
    if path.suffix == ".png":
        with Image.open(path) as image:
            yield repr(image.info).encode() + image.tobytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) + name.encode() for name in archive.namelist())


def embed_secret(path: Path, as_jpeg: bool) -> None:
    """Rewrite the image with the secret in every metadata field."""
    with Image.open(path) as file:
        image = file.copy()
    exif = Image.Exif()
    for tag in (0x010E, 0x013B, 0x8298, 0x9286):  # description, artist, copyright, comment
        exif[tag] = SECRET
    packed = {"exif": exif.tobytes(), "icc_profile": SECRET.encode() * 10}
    if as_jpeg:
        image.save(path, "JPEG", quality=95, comment=SECRET.encode(), xmp=SECRET.encode(), **packed)
    else:
        text = PngInfo()
        text.add_text("Patient", SECRET)
        text.add_text("Packed", SECRET, zip=True)
        text.add_itxt("XML:com.adobe.xmp", SECRET)
        image.save(path, "PNG", pnginfo=text, **packed)


class NoNetwork(socket.socket):
    """A socket that allows only connections between local processes."""

    def __init__(self, family: int = -1, *args: object, **more: object) -> None:
        assert family == socket.AF_UNIX, "a connection to a network was requested"
        super().__init__(family, *args, **more)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outputs]:
    """Run every stage on images and tables with patient identifiers, without a network."""
    root = tmp_path_factory.mktemp("private")
    make_tiny(root)
    inputs_dir = root / "inputs" / "csv"
    for number, path in enumerate(sorted(inputs_dir.glob("pictures/*.png"))):
        embed_secret(path, as_jpeg=number % 2 == 1)
        assert SECRET.encode() in path.read_bytes()
    for path in inputs_dir.glob("*.csv"):
        table = pd.read_csv(path)
        table["patient"] = PATIENT + table["patient"]
        table.to_csv(path, index=False)
    for name in ("one", "two"):
        save_recipe(tiny_recipe(**{"schedule.epochs": 1}), root / f"{name}.yaml")
    flags = ["--challenge", "csv", "--root", str(root)]
    commands = [
        ["check", "csv", "--root", str(root)],
        ["folds", "csv", "--force", "--n-folds", "3", "--root", str(root)],
        ["cache", "csv", "--size", "32", "--root", str(root)],
        *(["train", str(root / f"{name}.yaml"), *flags] for name in ("one", "two")),
        *(
            ["predict", name, "--split", split, *flags]
            for name in ("one", "two")
            for split in ("dev", "test")
        ),
        ["ensemble", "both", "--members", "one", "two", *flags],
        *(["evaluate", name, *flags] for name in ("one", "both")),
        ["calibrate", "both", *flags],
        ["submit", "both", "--with-code", *flags],
    ]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
        patch.setattr(socket, "socket", NoNetwork)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        for command in commands:
            cli.main(command)
    yield Outputs(root, printed.getvalue())


def test_every_stage_has_written_something(outputs: Outputs):
    names = {path.name for path in outputs.files}
    assert {"images.npy", "folds.csv", "weights.safetensors", "oof.parquet", "weights.json"} <= names
    assert {"calibration.json", "submission.csv", "submission.zip", "environment.json"} <= names
    assert [path for path in outputs.files if path.suffix == ".png"]


def test_image_metadata_is_not_copied(outputs: Outputs):
    assert outputs.files_containing(SECRET) == []
    assert SECRET not in outputs.printed


def test_patients_are_only_in_folds_csv(outputs: Outputs):
    assert outputs.files_containing(PATIENT) == ["folds/csv/folds.csv"]
    assert PATIENT not in outputs.printed


def test_nothing_is_sent_anywhere(outputs: Outputs):
    # the pipeline ran with NoNetwork; this shows that NoNetwork blocks connections
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", NoNetwork)
        for family in ((), (socket.AF_INET,), (socket.AF_INET6, socket.SOCK_DGRAM)):
            with pytest.raises(AssertionError, match="a connection to a network"):
                socket.socket(*family)
        with pytest.raises(AssertionError, match="a connection to a network"):
            socket.create_connection(("127.0.0.1", 9))


def test_the_search_finds_embedded_secrets(tmp_path: Path):
    """Check the search itself: in a parquet file, in an image and in a compressed zip."""
    pd.DataFrame({"id": [SECRET] * 50}).to_parquet(tmp_path / "a.parquet", compression="zstd")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "b.png")
    embed_secret(tmp_path / "b.png", as_jpeg=False)
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", SECRET * 100)
    (tmp_path / "d.txt").write_text("nothing")
    assert Outputs(tmp_path, "").files_containing(SECRET) == ["a.parquet", "b.png", "c.zip"]
