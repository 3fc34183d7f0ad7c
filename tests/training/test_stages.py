"""A fold with stages is a sequence of trainings, each from the weights of the one before."""

import itertools
from dataclasses import replace

import pandas as pd
import pytest
import torch

from cxrlt.recipe import StageConfig
from cxrlt.training import loop, stages
from cxrlt.training.setup import initial_model, loss_of
from cxrlt.training.stages import stage_recipe
from cxrlt.training.train import TrainPlan, fold_jobs, train
from tiny import same, tiny_recipe, weights_of

RISING = ({"epochs": 1, "size": 32}, {"epochs": 2, "lr": 1e-3})


def plan(name, first=RISING, **over):
    fields = {"data.size": 48, "schedule.stages": first, "schedule.epochs": 1, "checkpoint_minutes": 1e-9}
    return TrainPlan(name, tiny_recipe(**fields, **over), folds=(0,))


def fit_noting(monkeypatch, noted):
    """Let `noted` have, in turn, what every training starts from and ends with."""
    real = stages.fit

    def noting(job, accelerator):
        first = initial_model(job, loss_of(job)).state_dict()
        real(job, accelerator)
        noted.append((job, first, weights_of(job)))

    monkeypatch.setattr(stages, "fit", noting)


@pytest.fixture(scope="module")
def noted(source, tmp_path_factory):
    """The trainings of a staged fold: job, first weights, last weights."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        fit_noting(patch, found)
        train(source, plan("staged"))
    return found


def test_every_stage_starts_from_the_weights_of_the_one_before_it(noted):
    assert [job.run_dir.name for job, _, _ in noted] == ["stage1", "stage2", "fold0"]
    for (_, _, last), (_, first, _) in itertools.pairwise(noted):
        assert same(first, last)


def test_a_stage_has_its_own_epochs_size_and_learning_rate(noted):
    recipes = [job.recipe for job, _, _ in noted]
    assert [recipe.data.size for recipe in recipes] == [32, 48, 48]
    assert [job.cache.size for job, _, _ in noted] == [32, 48, 48]
    assert [recipe.schedule.epochs for recipe in recipes] == [1, 2, 1]
    logs = [pd.read_csv(job.run_dir / "log.csv") for job, _, _ in noted]
    assert [len(log) for log in logs] == [1, 2, 1]
    assert [recipe.optim.lr for recipe in recipes] == [2e-3, 1e-3, 2e-3]
    assert 0 < logs[1]["lr"].max() < 1e-3
    assert len({job.seed for job, _, _ in noted}) == 3


def test_the_stages_of_every_seed_have_seeds_of_their_own(source):
    jobs = [*fold_jobs(source, plan("seed-0")), *fold_jobs(source, replace(plan("seed-1"), seed=1))]
    assert len({part.seed for job in jobs for part in (*job.stages, job)}) == 6


def test_the_weights_of_stages_are_removed_when_the_fold_is_done_and_their_logs_stay(noted):
    run_dir = noted[-1][0].run_dir
    assert [path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*.safetensors")] == [
        "weights.safetensors"
    ]
    assert (run_dir / "stage1" / "log.csv").is_file()


def test_a_crop_share_is_kept_at_every_size(source):
    (job,) = fold_jobs(source, plan("cropped", **{"data.crop_pct": 0.8}))
    assert [stage.cache.size for stage in (*job.stages, job)] == [40, 60, 60]


@pytest.mark.parametrize(("stage", "update"), [("stage1", 2), ("stage2", 5), ("fold0", 3)])
def test_an_interrupted_fold_goes_on_in_the_stage_it_was_in(source, noted, monkeypatch, stage, update):
    class StopError(Exception):
        pass

    begun = []
    real_fit, real_update = stages.fit, loop.update

    def dying(trainer, *args):
        if (trainer.job.run_dir.name, trainer.progress.update) == (stage, update):
            raise StopError
        return real_update(trainer, *args)

    monkeypatch.setattr(stages, "fit", lambda job, acc: begun.append(job.run_dir.name) or real_fit(job, acc))
    again = plan(f"stopped-{stage}")
    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(loop, "CHECK_EVERY", 1)
        patch.setattr(loop, "update", dying)
        train(source, again)
    begun.clear()
    (resumed,) = train(source, again)
    assert begun[0] == stage
    assert same(weights_of(resumed), noted[-1][2])


def test_a_frozen_stage_moves_the_head_alone(source, monkeypatch):
    found = []
    fit_noting(monkeypatch, found)
    over = {"data.mix": {"kinds": ("mixup",)}}
    train(source, plan("warmed", ({"epochs": 1, "frozen": True},), **over))
    (stage, first, last), (_, then, end) = found
    assert stage.recipe.model.frozen
    moved = {key for key in first if not torch.equal(first[key], last[key])}
    assert moved == {"head.weight", "head.bias"}
    assert same(then, last)
    assert any(not torch.equal(then[key], end[key]) for key in end if key.startswith("backbone."))


def test_a_stage_is_one_plain_training():
    recipe = tiny_recipe(**{"schedule.stages": RISING, "soup.kind": "greedy"})
    staged = stage_recipe(recipe, StageConfig(epochs=3))
    assert (staged.schedule.stages, staged.soup.kind, staged.schedule.epochs) == ((), "none", 3)
    assert (staged.optim.lr, staged.data.size) == (recipe.optim.lr, recipe.data.size)


def test_a_frozen_stage_sees_maps_of_no_more_than_four_by_four():
    warm_up = StageConfig(epochs=1, frozen=True)
    whole = tiny_recipe(**{"model.head": "csra"})
    assert stage_recipe(whole, warm_up).model.grid == 4
    assert stage_recipe(tiny_recipe(**{"model.head": "csra", "model.grid": 2}), warm_up).model.grid == 2
    assert stage_recipe(whole, StageConfig(epochs=1)).model.grid is None
    assert stage_recipe(tiny_recipe(), warm_up).model.grid is None  # what timm pools has no map
