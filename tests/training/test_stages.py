"""A fold with stages is a sequence of trainings, each from the weights of the one before."""

import itertools
from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cxrlt.recipe import StageConfig
from cxrlt.training.setup import create_fold_loss, create_initial_model
from cxrlt.training.stages import create_stage_recipe
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from interruptions import on_each_forward, on_each_update, stop_in_update
from tiny import load_weights, same_weights, tiny_recipe

pytestmark = pytest.mark.slow

RISING = ({"epochs": 1, "size": 32}, {"epochs": 2, "lr": 1e-3})


def plan(name, first=RISING, **over):
    fields = {"data.size": 48, "schedule.stages": first, "schedule.epochs": 1, "checkpoint_minutes": 1e-9}
    return TrainPlan(name, tiny_recipe(**fields, **over), folds=(0,))


def train_and_record(source, wanted):
    """Train a fold with stages; return, for every training: job, initial weights, final weights.

    The first are a model's in its first pass, the last those of a file, which the end of the fold removes.
    """
    run_dir = source.workspace.run_dir("csv", wanted.name) / "fold0"
    models, first, last = [], [], {}

    def record_call(model, *_):
        if model.training and not any(model is other for other in models):
            models.append(model)
            first.append({key: value.clone() for key, value in model.state_dict().items()})
            last.update({path.parent: load_file(path) for path in run_dir.glob("stage*/weights.safetensors")})

    with on_each_forward(record_call):
        (job,) = train(source, wanted)
    last[job.run_dir] = load_weights(job)
    jobs = [*job.stages, job]
    return [(job, state, last[job.run_dir]) for job, state in zip(jobs, first, strict=True)]


@pytest.fixture(scope="module")
def staged_trainings(source):
    """The trainings of a staged fold: job, first weights, last weights."""
    return train_and_record(source, plan("staged"))


def test_every_stage_starts_from_the_weights_of_the_one_before_it(staged_trainings):
    assert [job.run_dir.name for job, _, _ in staged_trainings] == ["stage1", "stage2", "fold0"]
    job, first, _ = staged_trainings[0]
    assert same_weights(first, create_initial_model(job, create_fold_loss(job)).state_dict())
    for (_, _, last), (_, first, _) in itertools.pairwise(staged_trainings):
        assert same_weights(first, last)


def test_a_stage_has_its_own_epochs_size_and_learning_rate(staged_trainings):
    recipes = [job.recipe for job, _, _ in staged_trainings]
    assert [recipe.data.size for recipe in recipes] == [32, 48, 48]
    assert [job.data.cache.size for job, _, _ in staged_trainings] == [32, 48, 48]
    assert [recipe.schedule.epochs for recipe in recipes] == [1, 2, 1]
    logs = [pd.read_csv(job.run_dir / "log.csv") for job, _, _ in staged_trainings]
    assert [len(log) for log in logs] == [1, 2, 1]
    assert [recipe.optim.lr for recipe in recipes] == [2e-3, 1e-3, 2e-3]
    assert 0 < logs[1]["lr"].max() < 1e-3
    assert len({job.run.seed for job, _, _ in staged_trainings}) == 3


def test_the_stages_of_every_seed_have_seeds_of_their_own(source):
    jobs = [
        *create_fold_jobs(source, plan("seed-0")),
        *create_fold_jobs(source, replace(plan("seed-1"), seed=1)),
    ]
    assert len({part.run.seed for job in jobs for part in (*job.stages, job)}) == 6


def test_the_weights_of_stages_are_removed_when_the_fold_is_done_and_their_logs_stay(staged_trainings):
    run_dir = staged_trainings[-1][0].run_dir
    assert [path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*.safetensors")] == [
        "weights.safetensors"
    ]
    assert (run_dir / "stage1" / "log.csv").is_file()


def test_a_crop_share_is_kept_at_every_size(source):
    (job,) = create_fold_jobs(source, plan("cropped", **{"data.crop_pct": 0.8}))
    assert [stage.data.cache.size for stage in (*job.stages, job)] == [40, 60, 60]


@pytest.mark.parametrize(
    ("stage", "update", "before"), [("stage1", 2, 0), ("stage2", 5, 4), ("fold0", 3, 12)]
)
def test_an_interrupted_fold_goes_on_in_the_stage_it_was_in(source, staged_trainings, stage, update, before):
    """`before` is how many updates the stages before it take."""
    again = plan(f"stopped-{stage}")
    with stop_in_update(before + update):
        train(source, again)
    run_dir = source.workspace.run_dir("csv", again.name) / "fold0"
    (saved,) = run_dir.rglob(f"checkpoint-{update}.safetensors")
    assert saved.parent.name == stage
    made = []
    with on_each_update(lambda number, _: made.append(number)):
        (resumed,) = train(source, again)
    assert before + update + len(made) == 16
    assert same_weights(load_weights(resumed), staged_trainings[-1][2])


def test_a_frozen_stage_moves_the_head_alone(source):
    over = {"data.mix": {"kinds": ("mixup",)}}
    wanted = plan("warmed", ({"epochs": 1, "frozen": True},), **over)
    (stage, light, last), (_, then, end) = train_and_record(source, wanted)
    assert stage.recipe.model.frozen
    assert not any(key.startswith("backbone.") for key in light)  # it is computed once, before
    first = create_initial_model(stage, create_fold_loss(stage)).state_dict()
    moved = {key for key in first if not torch.equal(first[key], last[key])}
    assert moved == {"head.weight", "head.bias"}
    assert same_weights(then, last)
    assert any(not torch.equal(then[key], end[key]) for key in end if key.startswith("backbone."))


def test_a_stage_is_one_plain_training():
    recipe = tiny_recipe(**{"schedule.stages": RISING, "soup.kind": "greedy"})
    staged = create_stage_recipe(recipe, StageConfig(epochs=3))
    assert (staged.schedule.stages, staged.soup.kind, staged.schedule.epochs) == ((), "none", 3)
    assert (staged.optim.lr, staged.data.size) == (recipe.optim.lr, recipe.data.size)


def test_a_frozen_stage_sees_maps_of_no_more_than_four_by_four():
    warm_up = StageConfig(epochs=1, frozen=True)
    whole = tiny_recipe(**{"model.head.name": "csra"})
    assert create_stage_recipe(whole, warm_up).model.grid == 4
    assert (
        create_stage_recipe(tiny_recipe(**{"model.head.name": "csra", "model.grid": 2}), warm_up).model.grid
        == 2
    )
    assert create_stage_recipe(whole, StageConfig(epochs=1)).model.grid is None
    assert create_stage_recipe(tiny_recipe(), warm_up).model.grid is None  # what timm pools has no map
