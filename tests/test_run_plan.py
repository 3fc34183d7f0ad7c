"""What `cxrlt run --plan` says, and what it refuses."""

import shutil
from collections import namedtuple

import pytest

from cxrlt import run_plan as module
from cxrlt.cli import main
from cxrlt.errors import UserError
from cxrlt.pipeline import Plan
from cxrlt.recipe import save_recipe
from cxrlt.run_plan import RunPlan, describe_plan, format_bytes
from cxrlt.training.cost import TrainingCost, measure_cost
from cxrlt.training.plan import TrainPlan
from cxrlt.training.train import train
from tiny import make_tiny, tiny_recipe

COST = TrainingCost(0.5, 0.2, 0.0, memory_bytes=3 * 10**9, n_parameters=10**6)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def source(tmp_path):
    """Return a tiny challenge: 32 train, 32 dev and 32 test images, two folds."""
    return make_tiny(tmp_path, n_patients=16, n_folds=2)


@pytest.fixture
def make_plan(tmp_path):
    """Return a factory of plans with one recipe and two folds."""

    def make(name="tiny", **over):
        path = tmp_path / f"{name}.yaml"
        save_recipe(tiny_recipe(**{"schedule.epochs": 10, **over}), path)
        return Plan((str(path),), n_folds=2)

    return make


@pytest.fixture
def measured(monkeypatch):
    """Replace the measurement by COST."""
    monkeypatch.setattr(module, "measure_cost", lambda *_: COST)


def stages_of(source, plan):
    return {stage.name: stage for stage in RunPlan(source, plan).stages()}


def test_a_stage_costs_its_images_times_their_cost(source, make_plan, measured):
    stages = stages_of(source, make_plan(**{"predict.tta.flip": True}))
    assert [*stages] == ["cache, 32 px", "train tiny", "predict tiny"]
    training = stages["train tiny"]
    assert (training.n_jobs, training.n_done, training.memory) == (2, 0, COST.memory_bytes)
    validation, oof = 10 * 16 * 0.2 / 2, 16 * 0.2  # one pass of the two of flip TTA; then both
    assert training.job_seconds == pytest.approx(10 * 16 * 0.5 + validation + oof)
    assert training.seconds == 2 * training.job_seconds
    assert training.disk == (2 + 8) * 4 * 10**6
    assert stages["predict tiny"].job_seconds == pytest.approx(64 * 0.2)
    assert stages["predict tiny"].disk == 2 * 64 * 3 * 4
    assert stages["cache, 32 px"].disk == 96 * 32 * 32
    assert stages["cache, 32 px"].n_jobs == 3


def test_stages_before_the_epochs_cost_as_many_pixels_as_they_have(source, make_plan, measured):
    plain = stages_of(source, make_plan())["train tiny"].job_seconds
    stages = ({"epochs": 4, "size": 64},)
    longer = stages_of(source, make_plan(**{"schedule.stages": stages}))["train tiny"].job_seconds
    oof = 16 * 0.2
    assert (longer - oof) / (plain - oof) == pytest.approx(26 / 10)


@pytest.mark.slow
def test_finished_work_is_counted_and_costs_nothing(source, make_plan, measured):
    plan = make_plan(**{"schedule.epochs": 1})
    train(source, TrainPlan("tiny", plan.load_recipes(source.challenge)["tiny"], folds=(1,)))
    stages = stages_of(source, plan)
    training, cache = stages["train tiny"], stages["cache, 32 px"]
    assert (training.n_jobs, training.n_done) == (2, 1)
    assert training.seconds == training.job_seconds
    assert (cache.n_done, cache.disk) == (1, 64 * 32 * 32)


@pytest.mark.parametrize(("free", "missing"), [(10**6, True), (10**12, False)])
def test_a_disk_that_is_too_small_is_refused(source, make_plan, measured, monkeypatch, free, missing):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, free))
    if not missing:
        assert "Nothing was changed." in describe_plan(source, make_plan())
        return
    with pytest.raises(
        UserError, match=r"not possible .* needs 40\.0 MB and has 1\.0 MB free\. Choose other"
    ):
        describe_plan(source, make_plan())


def test_a_memory_that_is_too_small_is_refused(source, make_plan, measured, monkeypatch):
    monkeypatch.setattr(module, "device_memory", lambda: 2 * 10**9)
    with pytest.raises(UserError, match=r"train tiny needs 3\.0 GB of memory of 2\.0 GB"):
        describe_plan(source, make_plan())


def test_missing_images_are_refused_as_in_the_run(source, make_plan, measured):
    next(source.workspace.images_dir("csv").glob("pictures/*_pa.png")).unlink()
    with pytest.raises(UserError, match=r"images are not in"):
        describe_plan(source, make_plan())


def test_a_quick_run_has_no_plan(source, make_plan):
    plan = Plan(make_plan().recipes, n_folds=2, quick=True)
    with pytest.raises(UserError, match=r"--plan cannot be combined with --quick"):
        describe_plan(source, plan)


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 kB"), (1536, "2 kB"), (2.5e6, "2.5 MB"), (1.25e12, "1,250.0 GB")]
)
def test_bytes_have_a_unit(n_bytes, text):
    assert format_bytes(n_bytes) == text


@pytest.mark.slow
def test_the_command_measures_and_changes_nothing(source, make_plan, capsys):
    (recipe,) = make_plan().recipes
    root = source.workspace.root
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    main(["run", "csv", "--root", str(root), "--recipes", recipe, "--n-folds", "2", "--plan"])
    out = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert "csv: train 32, dev 32, test 32 images; about 36 x 40 px (median of 8 files)" in out
    (line,) = (line for line in out.splitlines() if line.startswith("train tiny"))
    assert "0 of 2" in line


@pytest.mark.slow
def test_a_measurement_has_plausible_values(source):
    table = source.challenge.read("train", source.workspace.inputs_dir("csv"))
    cost = measure_cost(source.challenge, tiny_recipe(**{"predict.tta.flip": True}), table)
    frozen = measure_cost(source.challenge, tiny_recipe(**{"model.frozen": True}), table)
    assert 0 < cost.predict_seconds < cost.train_seconds < 1
    assert 10**8 < cost.memory_bytes < 10**10
    assert cost.features_seconds == 0 < frozen.features_seconds
    assert frozen.train_seconds < cost.train_seconds


@pytest.mark.slow
def test_a_recipe_that_does_not_fit_is_a_sentence(source, make_plan):
    plan = make_plan(**{"model.backbone": "swin_tiny_patch4_window7_224", "data.size": 50})
    with pytest.raises(UserError, match=r"swin_tiny_patch4_window7_224"):
        describe_plan(source, plan)
