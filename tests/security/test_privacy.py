"""What could identify a patient stays in the files the user gave, and nothing goes over a network."""

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
    """What a whole pipeline wrote below `root`, its input tables and pictures aside, and what it printed."""

    root: Path
    printed: str

    @property
    def files(self) -> list[Path]:
        given = self.root / "inputs" / "csv"
        found = [path for path in self.root.rglob("*") if path.is_file()]
        return sorted(path for path in found if not path.is_relative_to(given))

    def holding(self, text: str) -> list[str]:
        """Files in whose bytes, unpacked, the text stands."""
        return [
            path.relative_to(self.root).as_posix()
            for path in self.files
            if any(form in content for content in contents(path) for form in spellings(text))
        ]


def spellings(text: str) -> list[bytes]:
    return [text.encode(), text.encode("utf-16-le"), text.encode("utf-16-be")]


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what is packed in them."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield table.to_pandas().to_csv().encode()
        yield repr(table.schema.metadata).encode()
    if path.suffix == ".png":
        with Image.open(path) as picture:
            yield repr(picture.info).encode() + picture.tobytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) + name.encode() for name in archive.namelist())


def mark(path: Path, as_jpeg: bool) -> None:
    """Write the picture again with the secret wherever a file can say whom it shows."""
    with Image.open(path) as file:
        picture = file.copy()
    exif = Image.Exif()
    for tag in (0x010E, 0x013B, 0x8298, 0x9286):  # description, artist, copyright, comment
        exif[tag] = SECRET
    packed = {"exif": exif.tobytes(), "icc_profile": SECRET.encode() * 10}
    if as_jpeg:
        picture.save(path, "JPEG", quality=95, comment=SECRET.encode(), xmp=SECRET.encode(), **packed)
    else:
        text = PngInfo()
        text.add_text("Patient", SECRET)
        text.add_text("Packed", SECRET, zip=True)
        text.add_itxt("XML:com.adobe.xmp", SECRET)
        picture.save(path, "PNG", pnginfo=text, **packed)


class NoNetwork(socket.socket):
    """A socket between processes of this machine, or none."""

    def __init__(self, family: int = -1, *args: object, **more: object) -> None:
        assert family == socket.AF_UNIX, "a connection to a network was asked for"
        super().__init__(family, *args, **more)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outputs]:
    """Every stage on pictures and tables that say whom they show, without a network."""
    root = tmp_path_factory.mktemp("private")
    make_tiny(root)
    given = root / "inputs" / "csv"
    for number, path in enumerate(sorted(given.glob("pictures/*.png"))):
        mark(path, as_jpeg=number % 2 == 1)
        assert SECRET.encode() in path.read_bytes()
    for path in given.glob("*.csv"):
        table = pd.read_csv(path)
        table["patient"] = PATIENT + table["patient"]
        table.to_csv(path, index=False)
    for name in ("one", "two"):
        save_recipe(tiny_recipe(**{"schedule.epochs": 1}), root / f"{name}.yaml")
    place = ["--challenge", "csv", "--root", str(root)]
    commands = [
        ["check", "csv", "--root", str(root)],
        ["folds", "csv", "--force", "--n-folds", "3", "--root", str(root)],
        ["cache", "csv", "--size", "32", "--root", str(root)],
        *(["train", str(root / f"{name}.yaml"), *place] for name in ("one", "two")),
        *(
            ["predict", name, "--split", split, *place]
            for name in ("one", "two")
            for split in ("dev", "test")
        ),
        ["ensemble", "both", "--members", "one", "two", *place],
        *(["evaluate", name, *place] for name in ("one", "both")),
        ["calibrate", "both", *place],
        ["submit", "both", "--with-code", *place],
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


def test_what_stands_in_the_pictures_files_is_copied_nowhere(outputs: Outputs):
    assert outputs.holding(SECRET) == []
    assert SECRET not in outputs.printed


def test_patients_are_named_in_the_folds_alone(outputs: Outputs):
    assert outputs.holding(PATIENT) == ["folds/csv/folds.csv"]
    assert PATIENT not in outputs.printed


def test_nothing_is_sent_anywhere(outputs: Outputs):
    # the pipeline has run with every way to a network closed; that it was closed is shown here
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", NoNetwork)
        for family in ((), (socket.AF_INET,), (socket.AF_INET6, socket.SOCK_DGRAM)):
            with pytest.raises(AssertionError, match="a connection to a network"):
                socket.socket(*family)
        with pytest.raises(AssertionError, match="a connection to a network"):
            socket.create_connection(("127.0.0.1", 9))


def test_what_is_planted_would_be_found(tmp_path: Path):
    """The search itself: in a table, in a picture and in a zip in which the text is packed."""
    pd.DataFrame({"id": [SECRET] * 50}).to_parquet(tmp_path / "a.parquet", compression="zstd")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "b.png")
    mark(tmp_path / "b.png", as_jpeg=False)
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", SECRET * 100)
    (tmp_path / "d.txt").write_text("nothing")
    assert Outputs(tmp_path, "").holding(SECRET) == ["a.parquet", "b.png", "c.zip"]
