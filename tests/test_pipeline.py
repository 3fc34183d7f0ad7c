import shlex
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrlt import cli, commands
from cxrlt.artifacts import Workspace, read_json
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from cxrlt.folds.make import read_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.phantom.demo import make_demo
from cxrlt.pipeline import Plan, list_jobs, run, waves
from cxrlt.recipe import save_recipe
from cxrlt.submissions.validate import validate
from cxrlt.system.locks import LOCK
from tiny import CLASSES, make_tiny, tiny_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[ImageSource, Plan]:
    """A tiny challenge run from its files to the zip, with two recipes."""
    source = make_tiny(tmp_path_factory.mktemp("pipeline"))
    root = source.workspace.root
    save_recipe(tiny_recipe(**{"optim.lr": 5e-3}), root / "one.yaml")
    save_recipe(tiny_recipe(**{"model.backbone": "test_resnet"}), root / "two.yaml")
    plan = Plan(recipes=(str(root / "one.yaml"), str(root / "two.yaml")), n_folds=3)
    run(source, plan)
    return source, plan


def files_of(source):
    root = source.workspace.root
    return {
        path: path.stat().st_mtime_ns
        for folder in ("folds", "submissions")
        for path in (root / folder).rglob("*")
        if path.is_file() and path.name != LOCK
    }


def test_it_ends_with_a_submission_the_server_would_accept(finished):
    source, _ = finished
    folder = source.workspace.submission_dir("csv", "ensemble")
    assert "valid" in validate(folder / "submission.zip", source.challenge, "test", source.workspace)
    with zipfile.ZipFile(folder / "submission.zip") as archive:
        submission = pd.read_csv(archive.open("submission.csv"))
    template = pd.read_csv(source.workspace.inputs_dir("csv") / "test.csv")
    assert list(submission["image"]) == list(template["image"])
    assert list(submission.columns) == ["image", *CLASSES]


def test_every_stage_is_named_and_timed_and_the_scores_and_paths_come_last(finished, capsys):
    source, plan = finished
    run(source, plan)
    printed = capsys.readouterr().out
    stages = ["check", "folds", "cache", "train", "ensemble", "predict", "submit", "report"]
    starts = [printed.index(f"== {stage}\n") for stage in stages]
    assert starts == sorted(starts)
    assert all(f"== {stage}: " in printed for stage in stages)
    last = printed[starts[-1] :]
    assert "ensemble on csv oof" in last
    assert "ensemble on csv dev" in last
    assert "submission.zip" in last
    assert f"report       {finished[0].workspace.submission_dir('csv', 'report')}" in last


def test_a_second_run_skips_what_is_finished(finished, capsys):
    source, plan = finished
    before = files_of(source)
    run(source, plan)
    after = files_of(source)
    changed = {path.name for path in after if after[path] != before.get(path) and "report" not in path.parts}
    assert changed <= {"score.json"}
    assert "already done" in capsys.readouterr().out


def test_a_quick_run_makes_a_zip_in_a_separate_folder(finished, capsys):
    source, plan = finished
    before = files_of(source)
    run(source, replace(plan, quick=True))
    quick = source.workspace.root / "folds" / "quick"
    assert (quick / "submissions" / "csv" / "ensemble" / "submission.zip").is_file()
    assert {path: stamp for path, stamp in files_of(source).items() if quick not in path.parents} == before
    assert pd.read_csv(quick / "folds" / "csv" / "one" / "fold0" / "log.csv")["epoch"].max() == 1
    assert "200 patients and one epoch" in capsys.readouterr().out


def test_missing_images_stop_the_run_without_allow_missing(tmp_path, capsys):
    source = make_tiny(tmp_path, n_patients=15)
    (source.workspace.folds_path("csv")).unlink()
    pictures = source.workspace.inputs_dir("csv") / "pictures"
    for path in [*pictures.glob("0000[0-4]_pa.png"), *pictures.glob("0200*.png")]:
        path.unlink()
    save_recipe(tiny_recipe(**{"schedule.epochs": 1}), tmp_path / "one.yaml")
    plan = Plan(recipes=(str(tmp_path / "one.yaml"),), n_folds=3)
    with pytest.raises(UserError, match=r"5 of 30 images.*--allow-missing"):
        run(source, plan)
    capsys.readouterr()
    run(replace(source, allow_missing=True), plan)
    assert len(read_folds(source.challenge, source.workspace).frame) == 25
    assert "no submission, as images are missing" in capsys.readouterr().out
    assert not list((source.workspace.root / "submissions").rglob("submission.zip"))


def put_coloured_discs(folder: Path, n: int) -> None:
    """Red and green discs of the same grey on black, as classes of train; there is no dev and no test."""
    rng = np.random.default_rng(0)
    for name, colour in (("green", (0, 102, 0)), ("red", (0, 0, 200))):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(n):
            picture = np.zeros((32, 32, 3), np.uint8)
            centre = tuple(int(place) for place in rng.integers(10, 22, 2))
            cv2.circle(picture, centre, 8, colour, -1)
            cv2.imwrite(str(folder / "train" / name / f"{number}.png"), picture)


def test_a_folder_of_colours_without_dev_and_test_is_trained_and_scored(tmp_path, capsys):
    workspace = Workspace(tmp_path)
    inputs = workspace.inputs_dir("folder")
    put_coloured_discs(inputs, 24)
    (inputs / "challenge.yaml").write_text("channels: 3\n")
    over = {"model.backbone": "test_resnet", "loss.name": "ce", "optim.lr": 2e-2, "schedule.epochs": 4}
    save_recipe(tiny_recipe(**over), tmp_path / "colour.yaml")
    source = ImageSource(get_challenge("folder", inputs), workspace)
    run(source, Plan(recipes=(str(tmp_path / "colour.yaml"),), n_folds=2))
    assert "macro-F1" in capsys.readouterr().out
    folder = workspace.submission_dir("folder", "ensemble")
    score = read_json(folder / "score.json", "cxrlt run")["oof"]["overall"]["metrics"]
    assert score["macro-F1"]["value"] > 0.9
    sheet = cv2.imread(str(workspace.run_dir("folder", "colour") / "fold0" / "first_batch.png")).astype(int)
    assert ((sheet[..., 2] > 120) & (sheet[..., 1] < 40)).sum() > 500  # red discs
    assert ((sheet[..., 1] > 60) & (sheet[..., 2] < 40)).sum() > 500  # green discs
    assert not list(folder.glob("submission*.zip"))


def test_the_single_label_demo_goes_through_to_a_submission_of_probabilities_that_sum_to_one(
    tmp_path, capsys
):
    workspace = Workspace(tmp_path)
    make_demo(workspace.inputs_dir("demo-single"), 45, challenge="demo-single", workers=1)
    save_recipe(tiny_recipe(**{"loss.name": "ce", "schedule.epochs": 1}), tmp_path / "one.yaml")
    source = ImageSource(get_challenge("demo-single"), workspace)
    run(source, Plan(recipes=(str(tmp_path / "one.yaml"),), n_folds=2))
    assert "demo-single: already done" in capsys.readouterr().out
    submission = pd.read_csv(workspace.submission_dir("demo-single", "ensemble") / "submission.csv")
    classes = list(source.challenge.classes)
    assert list(submission.columns) == ["dicom_id", *classes]
    np.testing.assert_allclose(submission[classes].sum(axis=1), 1, atol=1e-4)


def test_a_mistyped_recipe_is_an_error_before_anything_is_written(tmp_path):
    source = ImageSource(get_challenge("demo"), Workspace(tmp_path))
    with pytest.raises(UserError, match="did you mean demo_resnet"):
        run(source, Plan(recipes=("demo_resnt",)))
    assert not list(tmp_path.iterdir())


def test_a_missing_init_from_run_is_an_error_before_anything_is_trained(tmp_path):
    source = make_tiny(tmp_path, n_patients=12)
    save_recipe(tiny_recipe(**{"model.init_from": "frist"}), tmp_path / "second.yaml")
    source.workspace.run_dir("csv", "first/fold0").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"model.init_from frist: There is no run or ensemble.* mean 'first'\?"
    ):
        run(source, Plan(recipes=(str(tmp_path / "second.yaml"),), n_folds=3))
    assert not source.workspace.cache_dir().exists()


def test_the_init_from_run_is_trained_first_in_any_order():
    recipes = {
        "third": tiny_recipe(**{"model.init_from": "second"}),
        "second": tiny_recipe(**{"model.init_from": "csv:first"}),
        "elsewhere": tiny_recipe(**{"model.init_from": "nih14:third"}),
        "first": tiny_recipe(),
    }
    assert waves("csv", recipes) == [["elsewhere", "first"], ["second"], ["third"]]
    recipes["first"] = tiny_recipe(**{"model.init_from": "third"})
    with pytest.raises(UserError, match=r"third, second, first start from each other"):
        waves("csv", recipes)


def test_listed_jobs_are_commands_in_waves_and_nothing_is_done(tmp_path):
    source = replace(make_tiny(tmp_path / "a folder"), allow_missing=True, quarantine=True)
    save_recipe(tiny_recipe(), tmp_path / "first.yaml")
    save_recipe(tiny_recipe(**{"model.init_from": "first"}), tmp_path / "second.yaml")
    before = files_of(source)
    names = (str(tmp_path / "second.yaml"), str(tmp_path / "first.yaml"))
    lines = list_jobs(source, Plan(names, n_folds=3, seed=7, drop_shared_patients=True)).splitlines()
    assert files_of(source) == before
    assert [line for line in lines if "wave" in line] == ["# wave 1 of 2: 3 jobs", "# wave 2 of 2: 3 jobs"]
    folds, cache, *trainings = [cli.parse(shlex.split(line)[1:]) for line in lines if line[0] != "#"]
    assert isinstance(folds, commands.MakeFolds)
    assert (folds.n_folds, folds.seed, folds.allow_missing, folds.drop_shared_patients) == (3, 7, True, True)
    assert isinstance(cache, commands.Cache)
    assert cache.size == tiny_recipe().data.cache_size
    assert [(Path(each.recipe).stem, each.fold, each.seed) for each in trainings] == [
        (name, (fold,), 7) for name in ("first", "second") for fold in range(3)
    ]
    assert all(each.challenge == "csv" for each in (folds, cache, *trainings))
    assert all(each.image_source("csv").flags() == source.flags() for each in (cache, *trainings))
    assert folds.workspace.inputs_dir("csv") == source.workspace.inputs_dir("csv")
    with pytest.raises(UserError, match="--quick"):
        list_jobs(source, Plan(names, quick=True))


def test_the_listed_jobs_of_a_demo_generate_it_first(tmp_path):
    plan = Plan(by="image", allow_leakage=True)
    lines = list_jobs(ImageSource(get_challenge("demo"), Workspace(tmp_path)), plan).splitlines()
    assert isinstance(cli.parse(shlex.split(lines[1])[1:]), commands.Demo)
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_with_two_gpus_folds_are_trained_side_by_side_and_failures_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    source = make_tiny(tmp_path, n_patients=8, n_folds=2)
    save_recipe(tiny_recipe(**{"schedule.epochs": 1}), tmp_path / "good.yaml")
    save_recipe(tiny_recipe(**{"loss.options": {"nonsense": 1}}), tmp_path / "bad.yaml")
    with pytest.raises(UserError, match=r"bad fold 0.*bad fold 1") as error:
        run(source, Plan((str(tmp_path / "good.yaml"), str(tmp_path / "bad.yaml")), n_folds=2))
    assert "good" not in str(error.value)
    run_dir = source.workspace.run_dir("csv", "good")
    assert all((run_dir / f"fold{fold}" / "oof.parquet").is_file() for fold in (0, 1))
