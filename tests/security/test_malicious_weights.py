"""Every reader of weights rejects a file that would run code, and runs no code."""

import base64
import io
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from malicious import FORMATS, MaliciousPickle
from safetensors.torch import load_file

from cxrlt import cli
from cxrlt.errors import UserError
from cxrlt.models.backbone import create_model
from cxrlt.predictions.store import read_predictions
from cxrlt.recipe import Recipe, save_recipe
from cxrlt.training.checkpoint import list_checkpoints, read_tensors, snapshot_path
from cxrlt.training.train import TrainPlan, train
from tiny import make_tiny, tiny_recipe

pytestmark = pytest.mark.slow

SUFFIXES = (".pth", ".safetensors", ".bin")


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """Path of the file that unpickling would create; it must not exist at the end of the test."""
    path = tmp_path / "was-here"
    yield path
    assert not path.exists()


@pytest.fixture(params=FORMATS)
def malicious(request: pytest.FixtureRequest, marker: Path) -> bytes:
    return FORMATS[request.param](MaliciousPickle(marker))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny challenge with the run `base`, trained on fold 0."""
    source = make_tiny(tmp_path_factory.mktemp("malicious"))
    train(source, TrainPlan("base", recipe(), folds=(0,)))
    return source.workspace.root


def recipe(**over: object) -> Recipe:
    return tiny_recipe(**{"schedule.epochs": 1, **over})


def error_of_command(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """Return the error message of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    assert stopped.value.code == 2
    error_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert error_line.startswith("cxrlt: ")
    return error_line


@pytest.mark.parametrize("form", FORMATS)
def test_a_malicious_file_would_run_code_if_it_were_trusted(tmp_path: Path, form: str):
    marker = tmp_path / "was-here"
    content = FORMATS[form](MaliciousPickle(marker))
    if form == "tar":
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            pickle.load(tar.extractfile("pickle"))
    elif form in ("pickle", "nested"):
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_backbone_does_not_start_from_it(tmp_path: Path, malicious: bytes, suffix: str):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(malicious)
    with pytest.raises(UserError, match="no weights that can be read safely") as error_of_command:
        create_model(recipe(**{"model.pretrained": path}).model, n_classes=3, size=32)
    assert "\n" not in str(error_of_command.value) and "trusted" not in str(error_of_command.value)
    assert "model.safetensors" in str(error_of_command.value)


@pytest.mark.parametrize(
    "content", [[1, 2], {"weight": "text"}, {1: torch.zeros(2)}, torch.zeros(3), None, {}]
)
def test_a_backbone_does_not_start_from_what_are_not_named_tensors(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"dict of tensors|can be read safely|lacks \d+ tensors"):
        create_model(recipe(**{"model.pretrained": tmp_path / "weights.pth"}).model, n_classes=3, size=32)


def test_a_training_does_not_start_from_it(root: Path, tmp_path: Path, malicious: bytes, capsys):
    path = tmp_path / "weights.pth"
    path.write_bytes(malicious)
    save_recipe(recipe(**{"model.pretrained": path}), tmp_path / "mine.yaml")
    error_line = error_of_command(
        capsys, "train", str(tmp_path / "mine.yaml"), "--challenge", "csv", "--fold", "0", "--root", str(root)
    )
    assert str(path) in error_line


@pytest.fixture
def with_malicious_weights(root: Path, tmp_path: Path, malicious: bytes) -> Path:
    """Return a copy of `root` with malicious weights in the trained fold."""
    copy = tmp_path / "root"
    shutil.copytree(root, copy)
    (copy / "folds" / "csv" / "base" / "fold0" / "weights.safetensors").write_bytes(malicious)
    return copy


@pytest.mark.parametrize("split", ["oof", "dev", "test"])
def test_nothing_is_predicted_with_it(with_malicious_weights: Path, capsys, split: str):
    flags = ("--challenge", "csv", "--root", str(with_malicious_weights), "--force")
    assert "weights.safetensors" in error_of_command(capsys, "predict", "base", "--split", split, *flags)


@pytest.mark.parametrize("frozen", [False, True])
def test_no_other_run_starts_from_it(with_malicious_weights: Path, tmp_path: Path, capsys, frozen: bool):
    over = {"model.init_from": "base"} | ({"model.frozen": True} if frozen else {})
    save_recipe(recipe(**over), tmp_path / "next.yaml")
    flags = ("--challenge", "csv", "--fold", "0", "--root", str(with_malicious_weights))
    assert "weights.safetensors" in error_of_command(capsys, "train", str(tmp_path / "next.yaml"), *flags)


def test_a_checkpoint_is_passed_over(root: Path, tmp_path: Path, malicious: bytes, capsys):
    shutil.copytree(root, copy := tmp_path / "root")
    fold = copy / "folds" / "csv" / "again" / "fold0"
    fold.mkdir(parents=True)
    (fold / "checkpoint-3.safetensors").write_bytes(malicious)
    save_recipe(recipe(), tmp_path / "again.yaml")
    cli.main(
        ["train", str(tmp_path / "again.yaml"), "--challenge", "csv", "--fold", "0", "--root", str(copy)]
    )
    assert "checkpoint-3.safetensors cannot be used" in capsys.readouterr().out
    clean = load_file(root / "folds/csv/base/fold0/weights.safetensors")
    again = load_file(fold / "weights.safetensors")
    assert all(torch.equal(clean[key], again[key]) for key in clean)
    assert list_checkpoints(fold) == []


def test_a_snapshot_of_an_epoch_is_refused(tmp_path: Path, malicious: bytes):
    path = snapshot_path(tmp_path, 3)
    path.write_bytes(malicious)
    with pytest.raises(UserError, match=r"snapshot-3\.safetensors is damaged or not a safetensors file"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["images.npy", "thumbs.npy", "hashes.npy", "sources.npy"])
def test_an_array_of_objects_in_a_cache_is_never_loaded(root: Path, tmp_path: Path, marker: Path, name: str):
    shutil.copytree(root, copy := tmp_path / "root")
    for folder in (copy / "inputs" / "cache").iterdir():
        with (folder / name).open("wb") as file:
            np.save(file, np.array([MaliciousPickle(marker)] * 3, dtype=object), allow_pickle=True)
    flags = ["--root", str(copy), "--images", str(root / "inputs" / "csv")]  # the cache depends on this path
    cli.main(["predict", "base", "--split", "oof", "--challenge", "csv", *flags, "--force"])
    assert all(np.load(path) is not None for path in (copy / "inputs" / "cache").glob("*-train-*/*.npy"))


@pytest.mark.parametrize("name", ["features.npy", "done.npy"])
def test_an_array_of_objects_among_features_is_never_loaded(
    root: Path, tmp_path: Path, marker: Path, name: str
):
    shutil.copytree(root, copy := tmp_path / "root")
    for run in ("first", "second"):
        save_recipe(recipe(**{"model.init_from": "base", "model.frozen": True}), tmp_path / f"{run}.yaml")
        flags = ["--challenge", "csv", "--fold", "0", "--root", str(copy)]
        cli.main(["train", str(tmp_path / f"{run}.yaml"), *flags])
        arrays = list((copy / "inputs" / "cache").glob(f"features-*/{name}"))
        assert arrays and all(np.load(path) is not None for path in arrays)
        for path in arrays:
            with path.open("wb") as file:
                np.save(file, np.array([MaliciousPickle(marker)] * 3, dtype=object), allow_pickle=True)


def test_a_type_that_pickles_itself_into_a_predictions_file_is_not_unpickled(tmp_path: Path, marker: Path):
    hidden = {"ARROW:extension:name": "arrow.py_extension_type"}
    hidden |= {"ARROW:extension:metadata": pickle.dumps(MaliciousPickle(marker))}
    schema = pa.schema([pa.field("image_id", pa.string()), pa.field("Disc", pa.float32(), metadata=hidden)])
    table = pa.table([pa.array(["a"]), pa.array([0.5], pa.float32())], schema=schema)
    pq.write_table(table, tmp_path / "test.parquet")
    kept = base64.b64decode(pq.read_metadata(tmp_path / "test.parquet").metadata[b"ARROW:schema"])
    assert b"py_extension_type" in kept and b"was-here" in kept
    with suppress(UserError):
        read_predictions(tmp_path / "test.parquet", ("Disc",))


def test_a_backbone_is_not_fetched_from_a_place_that_its_name_spells(tmp_path: Path):
    for name in (
        "hf-hub:someone/model",
        "hf_hub:someone/model",
        f"local-dir:{tmp_path}",
        "../../model",
        "https://x/y",
    ):
        with pytest.raises(UserError, match="is not a timm model"):
            create_model(recipe(**{"model.backbone": name}).model, n_classes=3, size=32)


def test_every_form_of_real_weights_is_still_read(tmp_path: Path):
    model = recipe().model
    bare = create_model(model, n_classes=3, size=32)
    state = {f"backbone.{key}": value for key, value in bare.backbone.state_dict().items()}
    for new in (True, False):
        torch.save({"state_dict": state}, tmp_path / "mine.pth", _use_new_zipfile_serialization=new)
        read = create_model(model.model_copy(update={"pretrained": tmp_path / "mine.pth"}), 3, 32)
        first = next(iter(state))
        assert torch.equal(read.state_dict()[first], state[first])
