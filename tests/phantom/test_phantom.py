import hashlib
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from cxrlt.phantom.anatomy import SIZE
from cxrlt.phantom.demo import MARKER, METADATA, PHANTOMS, make_demo, metadata_table
from cxrlt.phantom.findings import CLASSES
from cxrlt.system.atomic_files import sha256_of, write_json

pytestmark = pytest.mark.slow

N_PATIENTS = 14


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root") / "inputs" / "demo"
    make_demo(folder, N_PATIENTS, workers=1)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def test_the_tables_have_the_columns_of_the_real_download(demo_dir: Path) -> None:
    train = pd.read_csv(demo_dir / "train.csv")
    assert list(train.columns) == [*METADATA, *get_challenge("demo").classes]
    assert train["study_id"].str.fullmatch(r"s5\d{7}").all()
    assert train["path"].str.fullmatch(r"files/p1\d/p1\d{7}/s5\d{7}/[0-9a-f]{8}(-[0-9a-f]{8}){4}\.jpg").all()
    for split, template in (
        ("development", "development_sample_submission.csv"),
        ("test", "sample_submission.csv"),
    ):
        metadata_table, blank = pd.read_csv(demo_dir / f"{split}.csv"), pd.read_csv(demo_dir / template)
        assert list(metadata_table.columns) == METADATA
        assert list(blank.columns) == ["dicom_id", *CLASSES]
        assert list(blank["dicom_id"]) == list(metadata_table["dicom_id"])


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_the_demo_challenge_reads_what_was_made(demo_dir: Path, split: str) -> None:
    challenge = get_challenge("demo")
    df = challenge.read(split, demo_dir)
    assert len(df) > 0
    assert all((demo_dir / path).is_file() for path in df["path"])
    if split != "train":
        assert challenge.template(split, demo_dir) == list(df.index)


def test_every_image_is_a_small_grey_jpeg(demo_dir: Path) -> None:
    paths = list((demo_dir / "files").rglob("*.jpg"))
    tables = [pd.read_csv(demo_dir / f"{split}.csv") for split in ("train", "development", "test")]
    assert len(paths) == sum(len(metadata_table) for metadata_table in tables)
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image.shape == (SIZE, SIZE)
        assert image.std() > 10


@pytest.mark.parametrize("split", ["train", "development", "test"])
def test_the_truth_agrees_with_the_images(demo_dir: Path, split: str) -> None:
    clean = pd.read_csv(demo_dir / "truth" / f"{split}_clean.csv", index_col="dicom_id")
    assert list(clean.index) == list(pd.read_csv(demo_dir / f"{split}.csv")["dicom_id"])
    drawn = pd.read_csv(demo_dir / "truth" / "conspicuity.csv")
    found = drawn[(drawn["kind"] == "finding") & drawn["dicom_id"].isin(clean.index)]
    positives = clean.drop(columns="No Finding").stack()
    assert set(zip(found["dicom_id"], found["class"], strict=True)) == set(positives[positives == 1].index)
    assert found["conspicuity"].between(0, 1, inclusive="right").all()


def test_there_is_a_mask_for_everything_drawn(demo_dir: Path) -> None:
    masks = np.unpackbits(np.load(demo_dir / "truth" / "masks.npz")["masks"], axis=1)
    assert len(masks) == len(pd.read_csv(demo_dir / "truth" / "conspicuity.csv"))
    assert masks.any(axis=1).mean() > 0.99
    assert masks.mean() < 0.3


def test_one_and_two_workers_give_the_same_bytes(demo_dir: Path, tmp_path: Path) -> None:
    make_demo(tmp_path / "demo", N_PATIENTS, workers=2)
    assert hashes(tmp_path / "demo") == hashes(demo_dir)


@pytest.mark.parametrize(
    ("challenge", "version", "sha256"),
    [
        ("demo", "1", "59cca5cfcfca471e8764a15b5383f150ea6b656b36aaac3e1f9820bf8b743a78"),
        ("demo-single", "single-1", "9075ce54a33291a0d8427c5ac4e06a3be0b663b6d716bd1bbe0182e85306ba4e"),
    ],
)
def test_a_version_is_bound_to_its_patients(challenge: str, version: str, sha256: str) -> None:
    """If a seed gives other images or labels, the version must change, as scores are not comparable."""
    phantom = PHANTOMS[challenge]
    labels = metadata_table(phantom.sample_patients(N_PATIENTS, 0), "train", 0).to_csv(index=False)
    assert phantom.version == version
    assert hashlib.sha256(labels.encode()).hexdigest() == sha256


def test_another_seed_gives_other_images(demo_dir: Path, tmp_path: Path) -> None:
    make_demo(tmp_path / "demo", 3, seed=1, workers=1)
    assert not set(hashes(tmp_path / "demo").values()) & set(hashes(demo_dir).values())


def test_a_finished_demo_is_kept(demo_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo_dir.rglob("*")}
    assert "already done" in make_demo(demo_dir, N_PATIENTS)
    assert "already done" in make_demo(demo_dir)
    assert before == {path: path.stat().st_mtime_ns for path in demo_dir.rglob("*")}


def test_another_demo_is_replaced_only_by_force(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    make_demo(folder, 3, workers=1)
    with pytest.raises(UserError, match=r"n_patients 3, not 4.*--force"):
        make_demo(folder, 4, workers=1)
    with pytest.raises(UserError, match="seed 0, not 1"):
        make_demo(folder, 3, seed=1, workers=1)
    done = make_demo(folder, 4, workers=1, force=True)
    assert "made" in done and "of 4 patients" in done
    counts = [int(count) for count in re.findall(r"(\d+) (?:train|development|test)", done)]
    assert len(list(folder.rglob("*.jpg"))) == sum(counts)


def test_foreign_files_are_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "train.csv").write_text("mine")
    with pytest.raises(UserError, match=r"train\.csv"):
        make_demo(folder, 3, workers=1, force=True)
    write_json(folder / MARKER, {"version": "0"})
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        make_demo(folder, 3, workers=1, force=True)
    assert (folder / "train.csv").read_text() == "mine"


def test_an_unfinished_demo_is_made_again(tmp_path: Path, demo_dir: Path) -> None:
    left = tmp_path / ".demo.0a1b2c3d.partial" / "files"
    left.mkdir(parents=True)
    (left / "half.jpg").write_bytes(b"")
    make_demo(tmp_path / "demo", N_PATIENTS, workers=1)
    assert hashes(tmp_path / "demo") == hashes(demo_dir)
    assert {path.name for path in tmp_path.iterdir()} == {"demo", ".demo.lock"}


def test_too_few_patients_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 or more"):
        make_demo(tmp_path / "demo", 2)


@pytest.mark.parametrize("mark", ['{"version": "1"}', '{"counts": 1, "n_patients": 3}', "[]"])
def test_a_damaged_marker_file_is_a_user_error(tmp_path, mark):
    inputs_dir = tmp_path / "demo"
    make_demo(inputs_dir, 3, workers=1)
    (inputs_dir / MARKER).write_text(mark)
    with pytest.raises(UserError, match=r"demo\.json .+ --force"):
        make_demo(inputs_dir, 3, workers=1)
