"""Broken input from the command line: one sentence on stderr, exit code 2, nothing written."""

import io
import os
import zipfile

import pytest

from cxrlt import cli
from layouts import LAYOUTS

SOUND = "image,Mass,Hernia,No Finding\nz,.1,.2,.3\n"


def packed(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mine.csv", content)
    return file.getvalue()


CASES = {
    "a table in UTF-16": ("inputs/csv/train.csv", "a,b\n".encode("utf-16"), ["check", "csv"], "is in UTF-16"),
    "a table with an open quotation mark": (
        "inputs/csv/train.csv",
        b'image,patient,study,view,path,Mass,Hernia,No Finding\na,p,s,PA,a.png,1,0,"0',
        ["folds", "csv"],
        "quoted wrongly",
    ),
    "a description of laughs": (
        "inputs/csv/challenge.yaml",
        b"a: &a [x, x]\nb: &b [*a, *a]\n",
        ["folds", "csv"],
        "an alias",
    ),
    "a description that runs code": (
        "inputs/csv/challenge.yaml",
        b"!!python/object/apply:os.mkdir [ran]\n",
        ["check", "csv"],
        "a tag",
    ),
    "a recipe that runs code": (
        "mine.yaml",
        b"optim: {lr: !!python/object/apply:os.mkdir [ran]}\n",
        ["train", "--config", "mine.yaml", "--challenge", "csv"],
        "a tag",
    ),
    "a recipe of itself": (
        "mine.yaml",
        b"base: mine.yaml\n",
        ["train", "mine.yaml", "--challenge", "csv"],
        "each other's base",
    ),
    "folds that are none": ("folds/csv/folds.json", b"[", ["folds", "csv", "--n-folds", "2"], "--force"),
    "a submission of 100 MB": (
        "mine.zip",
        packed(bytes(100_000_000)),
        ["validate", "mine.zip", "--challenge", "csv"],
        "unpacks to 100,000,000 bytes",
    ),
    "a truth of blanks": (
        "truth.csv",
        b"image,Mass,Hernia,No Finding\nz,,,\n",
        ["score", "sound.csv", "--truth", "truth.csv", "--challenge", "csv"],
        "every label is blank",
    ),
    "a truth with an image twice": (
        "truth.csv",
        b"image,Mass,Hernia,No Finding\nz,1,0,0\nz,0,1,0\n",
        ["score", "sound.csv", "--truth", "truth.csv", "--challenge", "csv"],
        "duplicate ids: z",
    ),
    "infinite scores": (
        "mine.csv",
        SOUND.replace(".2", "1e400").encode(),
        ["score", "mine.csv", "--truth", "known.csv", "--challenge", "csv"],
        "infinite values in rows 2",
    ),
}


@pytest.mark.parametrize(("name", "content", "args", "sentence"), CASES.values(), ids=CASES)
def test_broken_input_ends_with_a_sentence_and_exit_code_2(
    name, content, args, sentence, tmp_path, monkeypatch, capsys
):
    LAYOUTS["csv"].write(tmp_path / "inputs" / "csv")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sound.csv").write_text(SOUND)
    (tmp_path / "known.csv").write_text("image,Mass,Hernia,No Finding\nz,1,0,0\n")
    if name.startswith("folds/"):
        cli.main(["folds", "csv", "--n-folds", "2"])
    (tmp_path / name).write_bytes(content)
    before = sorted(path for path in tmp_path.rglob("*") if path.name != ".lock")
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("cxrlt: ")
    assert sentence in error
    assert sorted(path for path in tmp_path.rglob("*") if path.name != ".lock") == before


@pytest.mark.parametrize("args", [["validate"], ["train", "--config"], ["score", "sound.csv", "--truth"]])
def test_a_pipe_is_not_waited_for(args, tmp_path, monkeypatch, capsys):
    LAYOUTS["csv"].write(tmp_path / "inputs" / "csv")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sound.csv").write_text(SOUND)
    os.mkfifo("pipe")
    with pytest.raises(SystemExit) as stop:
        cli.main([*args, "pipe", "--challenge", "csv"])
    assert stop.value.code == 2
    assert "pipe is a pipe, not a file" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "true"])
def test_a_flag_takes_no_number_that_is_none(value, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "demo_resnet", "--optim.lr", value])
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
