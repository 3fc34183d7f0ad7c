"""Every stage with small versions of the best_ recipes, on files in the layouts of the challenges."""

import zipfile

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cxrlt.artifacts import read_json
from cxrlt.challenges import get_challenge
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.inputs.images import ImageSource
from cxrlt.pipeline import ENSEMBLE, Plan, run
from cxrlt.predictions.current_data import CurrentData
from cxrlt.recipe import Recipe, load_recipe, save_recipe
from cxrlt.submissions.submit import submit
from cxrlt.submissions.validate import validate
from layouts import write_layout

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
