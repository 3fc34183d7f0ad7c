from pathlib import Path

import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from cxrlt.inputs.table import NoImagesError, load_labels, load_table
from user_errors import raises_user_error

pytestmark = pytest.mark.slow


def csv(workspace):
    return get_challenge("csv", workspace.inputs_dir("csv"))


def test_a_table_has_the_absolute_file_of_every_row(csv_workspace):
    workspace = csv_workspace(train=["p1", "p2"])
    table = load_table(csv(workspace), "train", workspace)
    assert table.index.tolist() == ["train0", "train1"]
    folder = workspace.inputs_dir("csv") / "images"
    assert table["file"].tolist() == [str(folder / "train0.png"), str(folder / "train1.png")]
    assert all(Path(file).is_absolute() for file in table["file"])


def test_images_can_be_in_another_folder(csv_workspace, tmp_path):
    workspace = csv_workspace(train=["p1"])
    (workspace.inputs_dir("csv") / "images").rename(tmp_path / "images")
    elsewhere = Workspace(tmp_path, inputs=workspace.inputs_dir("csv"), images=tmp_path)
    assert load_table(csv(workspace), "train", elsewhere)["file"].tolist() == [
        str(tmp_path / "images/train0.png")
    ]


def test_missing_images_are_an_error_with_count_and_first_ten(csv_workspace):
    workspace = csv_workspace(train=[f"p{k}" for k in range(13)])
    for k in range(1, 13):
        (workspace.inputs_dir("csv") / f"images/train{k}.png").unlink()
    with raises_user_error("csv train", "12 of 13", "train1.png", "train10.png", "…"):
        load_table(csv(workspace), "train", workspace)
    with pytest.raises(UserError) as error:
        load_table(csv(workspace), "train", workspace)
    assert "train11.png" not in str(error.value)
    assert "--allow-missing" in str(error.value)


def test_allow_missing_continues_and_reports_the_count(csv_workspace, capsys):
    workspace = csv_workspace(train=["p1", "p2", "p3"])
    (workspace.inputs_dir("csv") / "images/train1.png").unlink()
    table = load_table(csv(workspace), "train", workspace, allow_missing=True)
    assert table.index.tolist() == ["train0", "train2"]
    assert "Continuing with 2 of 3 rows (--allow-missing)." in capsys.readouterr().err


def test_no_image_at_all_is_an_error_even_with_allow_missing(csv_workspace):
    workspace = csv_workspace(train=["p1"])
    (workspace.inputs_dir("csv") / "images/train0.png").unlink()
    with pytest.raises(NoImagesError, match="All images are missing: set the right folder with --images"):
        load_table(csv(workspace), "train", workspace, allow_missing=True)


def test_labels_need_no_image(csv_workspace):
    workspace = csv_workspace(train=["p1", "p2"])
    for image in (workspace.inputs_dir("csv") / "images").iterdir():
        image.unlink()
    assert load_labels(csv(workspace), "train", workspace)["Mass"].tolist() == [0, 1]


def test_a_patient_in_train_and_test_stops_a_strict_challenge(csv_workspace):
    workspace = csv_workspace(train=["p1", "p2", "p1"], test=["p1"])
    with raises_user_error("1 in test", "(p1)", "2 of the 3", "--drop-shared-patients"):
        load_labels(csv(workspace), "train", workspace)
    assert load_labels(csv(workspace), "test", workspace).index.tolist() == ["test0"]


def test_shared_patients_are_dropped_from_train_on_request_and_counted(csv_workspace, capsys):
    workspace = csv_workspace(train=["p1", "p2", "p1", "p3"], dev=["p3"], test=["p1"])
    table = load_table(csv(workspace), "train", workspace, drop_shared_patients=True)
    assert table["patient"].tolist() == ["p2"]
    assert "1 in dev, 1 in test; they have 3 of the 4 training images" in capsys.readouterr().err


def test_shared_patients_of_official_splits_are_a_warning(nih_lt_inputs, capsys):
    challenge = get_challenge("nihlt")
    workspace = Workspace(nih_lt_inputs, inputs=nih_lt_inputs)
    assert len(load_labels(challenge, "train", workspace)) == 2
    assert "nihlt: warning: Patients of train that are also in another split: 1 in dev; they have" in (
        capsys.readouterr().err
    )
    assert len(load_labels(challenge, "train", workspace, drop_shared_patients=True)) == 1


@pytest.fixture
def nih_lt_inputs(tmp_path):
    """Return a root with train and dev tables that share patient 00000002, and no test table."""
    classes = get_challenge("nihlt").classes
    header = ",".join(["id", *classes, "subj_id"])
    zeros = ",".join("0" * len(classes))
    for part, images in {"train": ["00000001_000", "00000002_000"], "val": ["00000002_001"]}.items():
        rows = [f"{image}.png,{zeros},{image[:8]}" for image in images]
        (tmp_path / f"miccai2023_nih-cxr-lt_labels_{part}.csv").write_text("\n".join([header, *rows]) + "\n")
    return tmp_path


def test_inputs_may_be_read_only(csv_workspace):
    workspace = csv_workspace(train=["p1", "p2"])
    folder = workspace.inputs_dir("csv")
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(load_table(csv(workspace), "train", workspace)) == 2
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "found"), [("nihlt", {"train": 1484, "dev": 158}), ("nih14", {"train": 1587, "test": 55})]
)
def test_the_real_images_are_found(nih_data, name, found, tmp_path):
    workspace = Workspace(tmp_path, inputs=nih_data)
    tables = {split: load_table(get_challenge(name), split, workspace, allow_missing=True) for split in found}
    assert {split: len(table) for split, table in tables.items()} == found
    assert all(Path(table["file"].iloc[0]).is_file() for table in tables.values())
