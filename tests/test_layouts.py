"""Every stage with small versions of the best_ recipes, on files in the layouts of the challenges."""

import zipfile

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import expit

from cxrlt.artifacts import read_json
from cxrlt.challenges import get_challenge
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.inputs.images import ImageSource
from cxrlt.metrics.odir import odir_score
from cxrlt.pipeline import ENSEMBLE, Plan, list_jobs, run
from cxrlt.predictions.current_data import CurrentData
from cxrlt.recipe import Recipe, load_recipe, save_recipe
from cxrlt.submissions.evaluate import leaderboard
from cxrlt.submissions.submit import submit
from cxrlt.submissions.validate import validate
from layouts import write_layout
from tiny import tiny_recipe

pytestmark = pytest.mark.slow

RECIPES = {
    "cxrlt2023": ("best_cxrlt2023", "best_cxrlt2023_fusion"),
    "cxrlt2024-task1": ("best_cxrlt2024_task1", "best_cxrlt2024_task1_fusion"),
    "cxrlt2024-task2": ("best_cxrlt2024_task1",),
    "cxrlt2026-task1": ("best_cxrlt2026_task1",),
}


def shrink_recipe(name: str) -> Recipe:
    """Return the recipe with a tiny backbone, small images, narrow attention and one epoch per stage."""
    values = load_recipe(name).model_dump()
    values["model"] |= {"backbone": "test_convnext", "pretrained": False}
    if values["model"]["head"]["name"] == "ml_decoder":
        values["model"]["head"] |= {"dim": 16, "n_heads": 2}
    values["model"]["fusion"] |= {"dim": 16, "n_heads": 2}
    values["data"]["size"] = 32
    values["schedule"]["epochs"] = 1
    for stage in values["schedule"]["stages"]:
        stage["epochs"] = 1
    return Recipe.model_validate(values)


TASK_2 = pytest.param("cxrlt2024-task2", marks=pytest.mark.full)


@pytest.fixture(scope="module", params=["cxrlt2023", "cxrlt2024-task1", TASK_2, "cxrlt2026-task1"])
def finished(request, tmp_path_factory) -> ImageSource:
    """Return the challenge's source after `cxrlt run` with its recipes; the second starts from the first."""
    root = tmp_path_factory.mktemp(request.param)
    source = write_layout(root, request.param)
    names = RECIPES[request.param]
    for name in names:
        save_recipe(shrink_recipe(name), root / f"{name}.yaml")
    run(source, Plan(recipes=tuple(str(root / f"{name}.yaml") for name in names), n_folds=2))
    return source


def prediction_splits(source: ImageSource) -> list[str]:
    return [split for split in source.challenge.splits if split != "train"]


def test_the_pipeline_writes_a_zip_that_the_server_would_accept(finished):
    challenge, workspace = finished.challenge, finished.workspace
    folder = workspace.submission_dir(challenge.name, ENSEMBLE)
    assert prediction_splits(finished)
    for split in prediction_splits(finished):
        path = folder / ("submission.zip" if split == "test" else f"submission_{split}.zip")
        assert f"valid for {challenge.name} {split}" in validate(path, challenge, split, workspace)
        with zipfile.ZipFile(path) as archive:
            submission = pd.read_csv(archive.open("submission.csv"))
        assert tuple(submission.columns) == challenge.submission_columns
        assert list(submission.iloc[:, 0]) == challenge.template(split, workspace.inputs_dir(challenge.name))


def test_every_training_image_is_predicted_out_of_fold_by_every_recipe(finished):
    challenge, workspace = finished.challenge, finished.workspace
    train = challenge.read("train", workspace.inputs_dir(challenge.name))
    for name in RECIPES[challenge.name]:
        logits = load_final_logits(name, "oof", CurrentData(challenge, workspace)).logits
        assert set(logits.index) == set(train.index)
        assert list(logits.columns) == list(challenge.classes)
        assert logits.notna().all(axis=None)


def test_scores_are_written_for_what_has_labels(finished):
    challenge, workspace = finished.challenge, finished.workspace
    made_by = "cxrlt evaluate"
    score = read_json(workspace.submission_dir(challenge.name, ENSEMBLE) / "score.json", made_by)
    labelled = {"cxrlt2024-task1": {"dev", "test"}, "cxrlt2024-task2": {"dev", "test"}}
    assert set(score) == {"oof"} | labelled.get(challenge.name, set())
    if challenge.name == "cxrlt2024-task2":
        assert {score["test"]["classes"][k]["n_known"] for k in range(26)} == {22}


@pytest.mark.parametrize("finished", ["cxrlt2024-task1"], indirect=True)
def test_a_task_1_model_is_submitted_to_task_2_by_name(finished):
    workspace = finished.workspace
    (workspace.root / "inputs" / "cxrlt2024-task2").symlink_to("cxrlt2024-task1")
    task2 = get_challenge("cxrlt2024-task2")
    written = submit(task2, workspace, ENSEMBLE, "test", origin=finished.challenge)
    assert "valid" in validate(written.zip_path, task2, "test", workspace)


@pytest.mark.parametrize("finished", ["cxrlt2023", "cxrlt2024-task1"], indirect=True)
def test_the_second_stage_uses_the_frozen_backbone_of_its_own_fold(finished):
    first, second = (
        finished.workspace.run_dir(finished.challenge.name, name) for name in RECIPES[finished.challenge.name]
    )
    for fold in ("fold0", "fold1"):
        before, after = (load_file(run_dir / fold / "weights.safetensors") for run_dir in (first, second))
        backbone = [key for key in before if key.startswith("backbone.")]
        assert backbone
        assert all(torch.equal(before[key], after[key]) for key in backbone)
        assert any(key.startswith("fusion.") for key in after)


RECIPES_OF_SETS = {
    "aptos2019": {"loss": {"name": "ce"}},
    "ham10000": {"loss": {"name": "ce"}, "data.augment": {"policy": "dermoscopy"}},
    "isic2018": {"loss": {"name": "ce"}},
    "isic2019": {"loss": {"name": "ce"}},
    "covid-radiography": {"loss": {"name": "ldam"}, "model.head": {"name": "cosine"}},
    "odir5k": {"loss": {"name": "lmf"}, "data.augment": {"policy": "fundus"}},
    "odir5k-patient": {"model.fusion.max_images": 2, "model.fusion.dim": 16, "model.fusion.n_heads": 2},
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.full] * (name in ("isic2018", "odir5k")))
        for name in RECIPES_OF_SETS
    ],
)
def finished_set(request, tmp_path_factory) -> ImageSource:
    """Return the source of a set without CXR-LT's files after `cxrlt run` with one recipe of one epoch."""
    root = tmp_path_factory.mktemp(request.param)
    source = write_layout(root, request.param)
    recipe = tiny_recipe(**{"schedule.epochs": 1, **RECIPES_OF_SETS[request.param]})
    save_recipe(recipe, root / "tiny.yaml")
    run(source, Plan(recipes=(str(root / "tiny.yaml"),), n_folds=2))
    return source


def test_every_image_of_the_set_has_an_out_of_fold_score(finished_set):
    challenge, workspace = finished_set.challenge, finished_set.workspace
    train = challenge.read("train", workspace.inputs_dir(challenge.name))
    logits = load_final_logits("tiny", "oof", CurrentData(challenge, workspace)).logits
    assert set(logits.index) == set(train.index)
    assert logits.notna().all(axis=None)
    score = read_json(workspace.submission_dir(challenge.name, ENSEMBLE) / "score.json", "cxrlt evaluate")
    assert score["oof"]["metric"] == challenge.metric
    absent = {"covid-radiography": ["Lung_Opacity"], "odir5k": ["C", "A", "H", "M", "O"]}
    assert sorted(score["oof"]["undefined"]) == sorted(absent.get(challenge.name, []))


@pytest.mark.parametrize("finished_set", ["aptos2019"], indirect=True)
def test_identical_images_are_in_one_fold_and_the_test_set_is_submitted(finished_set):
    challenge, workspace = finished_set.challenge, finished_set.workspace
    folds = pd.read_csv(workspace.folds_path(challenge.name), index_col="image_id")
    twins = folds.loc[["a00", "twin1", "twin2"]]
    assert twins["fold"].nunique() == twins["patient"].nunique() == 1
    path = workspace.submission_dir(challenge.name, ENSEMBLE) / "submission.csv"
    assert "valid" in validate(path, challenge, "test", workspace)
    assert list(pd.read_csv(path).columns) == ["id_code", *challenge.classes]
    commands = [line.split()[1] for line in list_jobs(finished_set, Plan()).splitlines() if line[0] != "#"]
    assert commands.index("cache") < commands.index("folds")


@pytest.mark.parametrize(
    "finished_set", [pytest.param("isic2018", marks=pytest.mark.full), "isic2019"], indirect=True
)
def test_lesions_stay_whole_and_images_of_another_class_are_submitted_but_not_scored(finished_set):
    challenge, workspace = finished_set.challenge, finished_set.workspace
    folds = pd.read_csv(workspace.folds_path(challenge.name))
    assert (folds.groupby("patient")["fold"].nunique() == 1).all()
    path = workspace.submission_dir(challenge.name, ENSEMBLE) / "submission.csv"
    assert "valid" in validate(path, challenge, "test", workspace)
    assert list(pd.read_csv(path).columns) == ["image", *challenge.classes]
    score = read_json(path.parent / "score.json", "cxrlt evaluate")
    n_test, n_scored = {"isic2018": (14, 14), "isic2019": (18, 16)}[challenge.name]
    assert (len(pd.read_csv(path)), score["test"]["classes"][0]["n_known"]) == (n_test, n_scored)


@pytest.mark.parametrize("finished_set", ["odir5k-patient"], indirect=True)
def test_both_eyes_of_a_patient_have_one_score_and_evaluations_have_that_of_odir(finished_set):
    current = CurrentData(finished_set.challenge, finished_set.workspace)
    logits = load_final_logits("tiny", "oof", current).logits
    patient = logits.index.str.split("_").str[0]
    assert (logits.groupby(patient).nunique() == 1).all(axis=None)
    notes = leaderboard(finished_set.challenge, finished_set.workspace).evaluations[0].notes
    labels = current.rows.table.loc[logits.index, list(logits.columns)]
    assert f"ODIR-2019 score {odir_score(labels, expit(logits))['score']:.4f}" in notes[0]
