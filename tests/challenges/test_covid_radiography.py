import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.errors import MissingFileError
from cxrlt.folds.make import make_folds
from cxrlt.inputs.check import check
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.table import load_table
from user_errors import raises_user_error

COVID = get_challenge("covid-radiography")
IMAGES = ("COVID-1.png", "COVID-2.png", "Normal-1.png", "Viral Pneumonia-1.png")


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    "place",
    [
        "COVID-19_Radiography_Dataset/{name}/images",
        "{name}/images",
        "{name}",
        "images",
        ".",
        "COVID-19_Radiography_Dataset",
    ],
)
def test_images_of_every_copy_are_found_with_their_class(tmp_path, place):
    workspace = Workspace(tmp_path)
    inputs = workspace.inputs_dir(COVID.name)
    for image in IMAGES:
        put(inputs, f"{place.format(name=image.rpartition('-')[0])}/{image}")
    put(
        inputs, "COVID-19_Radiography_Dataset/COVID/masks/COVID-1.png" if "COVID-19" in place else "README.md"
    )
    table = load_table(COVID, "train", workspace)
    assert sorted(table.index) == sorted(IMAGES)
    assert table[list(COVID.classes)].to_numpy().tolist() == [
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]
    assert table["patient"].isna().all()


def test_masks_are_ignored_and_a_class_without_images_is_named(tmp_path):
    workspace = Workspace(tmp_path)
    inputs = workspace.inputs_dir(COVID.name)
    put(inputs, "COVID/images/COVID-1.png", "COVID/masks/COVID-1.png", "COVID.metadata.xlsx")
    put(inputs, "Normal/images/Normal-1.png")
    report = check(COVID, workspace)
    assert "No positives in train: Lung_Opacity, Viral Pneumonia." in report
    assert "class = source" in report
    assert COVID.read("train", inputs).index.tolist() == ["COVID-1.png", "Normal-1.png"]


def test_other_folders_names_and_repeated_names_are_refused(tmp_path):
    with raises_user_error("COVID, Lung_Opacity", kind=MissingFileError):
        COVID.read("train", tmp_path)
    put(tmp_path / "a", "COVID/COVID-1.png", "Viral_Pneumonia/Viral Pneumonia-1.png")
    with raises_user_error("Viral_Pneumonia", "'Viral Pneumonia'"):
        COVID.read("train", tmp_path / "a")
    put(tmp_path / "b", "COVID-1.png", "NORMAL (1).png")
    with raises_user_error("NORMAL (1).png", "COVID-1.png"):
        COVID.read("train", tmp_path / "b")
    put(tmp_path / "c", "COVID/COVID-1.png", "images/COVID-1.png")
    with raises_user_error("COVID-1.png", "several"):
        COVID.read("train", tmp_path / "c")


def test_the_real_images_are_split_with_identical_ones_together(single_label_data, tmp_path):
    inputs = single_label_data / "covid19_radiography"
    workspace = Workspace(tmp_path, inputs, inputs)
    report = check(COVID, workspace, allow_missing=True)
    assert "No positives in train: Lung_Opacity." in report and "No problem found" in report
    with raises_user_error("574 of 574", "cxrlt cache covid-radiography"):
        make_folds(COVID, workspace)
    ImageSource(COVID, workspace).load_all_splits(32)
    assert "574 rows" in make_folds(COVID, workspace)
    folds = pd.read_csv(workspace.folds_path(COVID.name))
    assert folds["fold"].value_counts().between(110, 120).all()
