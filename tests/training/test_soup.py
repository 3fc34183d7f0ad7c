"""A soup of a fold's last epochs is judged by rows of its own, never by those the fold leaves out."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from sklearn.metrics import average_precision_score

from cxrlt.artifacts import read_json
from cxrlt.metrics import macro_metric
from cxrlt.training import loop, soup
from cxrlt.training.setup import create_accelerator
from cxrlt.training.soup import average, greedy, mean_of
from cxrlt.training.stages import fit_in_stages
from cxrlt.training.train import TrainPlan, fold_jobs, train
from tiny import CLASSES, same, tiny_recipe, weights_of

SCORES = {(1,): 0.5, (2,): 0.7, (3,): 0.6, (2, 3): 0.7, (1, 2, 3): 0.6}


def plan(name, kind="greedy", folds=(0,), **over):
    fields = {"soup": {"kind": kind, "snapshots": 3, "inner_share": 0.25}, "schedule.epochs": 4}
    return TrainPlan(name, tiny_recipe(**fields, **over), folds=folds)


def report_of(job):
    return read_json(job.run_dir / "soup.json", made_by="")


@pytest.fixture(scope="module")
def poured(source, tmp_path_factory):
    """A souped fold, and its snapshots with the score the loop would have given each on the inner rows."""
    kept = {}
    real = soup.pour

    def keeping(trainer):
        for path in trainer.job.run_dir.glob("snapshot-*.safetensors"):
            kept[path.stem] = load_file(path)
        real(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "pour", keeping)
        (job,) = train(source, plan("poured", "average"))
    return job, kept


def test_greedy_adds_what_does_not_lower_the_score_of_the_average():
    tried = greedy((1, 2, 3), SCORES.__getitem__)
    assert [(one.epochs, one.taken) for one in tried] == [((2,), True), ((2, 3), True), ((1, 2, 3), False)]


def test_of_equal_epochs_greedy_begins_with_the_last():
    assert greedy((1, 2), lambda epochs: 0.5)[0].epochs == (2,)


@pytest.mark.parametrize(("mean", "taken"), [(0.6, True), (0.61, True), (0.59, False)])
def test_the_average_of_all_is_taken_if_it_scores_no_less_than_the_last(mean, taken):
    last, everything = average((1, 2, 3), {(3,): 0.6, (1, 2, 3): mean}.__getitem__)
    assert (last.epochs, last.taken) == ((3,), True)
    assert (everything.epochs, everything.taken) == ((1, 2, 3), taken)


@pytest.mark.parametrize("choose", [greedy, average])
def test_without_a_score_the_last_epoch_stays(choose):
    taken = [one.epochs for one in choose((1, 2, 3), lambda epochs: math.nan) if one.taken]
    assert taken == [(3,)]


def test_a_mean_takes_floats_of_all_and_the_rest_of_the_last(tmp_path):
    paths = [tmp_path / f"{n}.safetensors" for n in range(3)]
    for n, path in enumerate(paths):
        running = torch.full((2,), float(n * n))
        save_file({"bn.running_var": running, "bn.num_batches_tracked": torch.tensor(n)}, path)
    mean = mean_of(paths)
    assert torch.equal(mean["bn.running_var"], torch.full((2,), 5 / 3))
    assert mean["bn.running_var"].dtype == torch.float32
    assert mean["bn.num_batches_tracked"] == 2


def test_a_mean_of_one_is_that_one(tmp_path):
    save_file({"weight": torch.rand(9)}, tmp_path / "one.safetensors")
    assert same(mean_of([tmp_path / "one.safetensors"]), load_file(tmp_path / "one.safetensors"))


def test_the_weights_are_the_mean_of_the_last_epochs_and_the_report_says_so(poured):
    job, kept = poured
    report = report_of(job)
    assert (
        set(kept)
        == {"snapshot-2", "snapshot-3", "snapshot-4"}
        == {f"snapshot-{epoch}" for epoch in report["snapshots"]}
    )
    last, everything = report["tried"]
    assert (last["epochs"], everything["epochs"]) == ([4], [2, 3, 4])
    assert last["score"] == report["snapshots"]["4"]
    assert everything["taken"] == (everything["score"] >= last["score"])
    assert report["taken"] == ([2, 3, 4] if everything["taken"] else [4])
    assert report["n_inner_images"] == len(job.inner)
    weights = weights_of(job)
    for key, value in weights.items():
        parts = torch.stack([kept[f"snapshot-{epoch}"][key].double() for epoch in report["taken"]])
        assert torch.allclose(value.double(), parts.mean(0), atol=1e-7), key


def test_snapshots_are_removed_when_the_fold_is_done(poured):
    job, _ = poured
    assert [path.name for path in job.run_dir.glob("*.safetensors")] == ["weights.safetensors"]


def test_every_score_is_of_the_inner_rows(source, monkeypatch):
    seen = []
    real = soup.macro_metric

    def noting(name, targets, scores):
        seen.append((name, targets, scores))
        return real(name, targets, scores)

    monkeypatch.setattr(soup, "macro_metric", noting)
    (job,) = train(source, plan("judged"))
    assert len(seen) >= 3
    assert all(np.array_equal(targets, job.targets(job.inner)) for _, targets, _ in seen)
    assert {name for name, _, _ in seen} == {source.challenge.metric}
    scores = [macro_metric(*one) for one in seen[:3]]
    assert sorted(scores) == sorted(report_of(job)["snapshots"].values())


def test_a_class_with_positives_and_blanks_only_is_not_in_the_scores_of_a_soup(source, monkeypatch):
    seen = []
    real = soup.scores_on
    monkeypatch.setattr(soup, "scores_on", lambda *args: seen.append(real(*args)) or seen[-1])
    (job,) = fold_jobs(source, plan("judged-blank", "average"))
    table = job.table.assign(Effusion=job.table["Effusion"].where(job.table["Effusion"] == 1))
    job = dataclasses.replace(job, table=table)
    job.run_dir.mkdir(parents=True)
    fit_in_stages(job, create_accelerator(job.recipe))
    labels = job.inner[CLASSES].to_numpy()
    others = [c for c in (1, 2) if len(set(labels[:, c])) == 2]
    expected = [np.mean([average_precision_score(labels[:, c], one[:, c]) for c in others]) for one in seen]
    assert list(report_of(job)["snapshots"].values()) == pytest.approx(expected[:3])
    assert [one["score"] for one in report_of(job)["tried"]] == pytest.approx(expected[2:4])


@pytest.mark.parametrize("refit", [False, True])
def test_no_patient_is_trained_on_judges_and_is_left_out(source, refit):
    wanted = dataclasses.replace(plan("parted", folds=None), refit=refit)
    for job in fold_jobs(source, wanted):
        parts = [set(table["patient"]) for table in (job.train, job.inner, job.valid) if len(table)]
        assert sum(len(part) for part in parts) == len(set.union(*parts)) == 24
        assert len(job.train) + len(job.inner) + len(job.valid) == 48
        others = 24 - (0 if refit else job.valid["patient"].nunique())
        assert job.inner["patient"].nunique() == pytest.approx(others / 4, abs=1)
        assert job.class_counts == {name: int(job.train[name].sum()) for name in CLASSES}


def test_the_labels_of_the_left_out_rows_do_not_change_the_soup(source, poured):
    job, _ = poured
    (fresh,) = fold_jobs(source, plan("flipped", "average"))
    flipped = fresh.table.copy()
    flipped.loc[fresh.left_out, CLASSES] = 1 - fresh.valid[CLASSES]
    fresh.run_dir.mkdir(parents=True)
    fit_in_stages(dataclasses.replace(fresh, table=flipped), create_accelerator(fresh.recipe))
    assert same(weights_of(fresh), weights_of(job))
    assert report_of(fresh) == report_of(job)
    logs = [pd.read_csv(one.run_dir / "log.csv")["oof_mAP"] for one in (fresh, job)]
    assert not np.allclose(*logs)


@pytest.mark.parametrize("update", [7, 11, 12])
def test_an_interrupted_fold_pours_the_same_soup(source, poured, monkeypatch, update):
    class StopError(Exception):
        pass

    def dying(real):
        def at_update(trainer, *args):
            if trainer.progress.update == update:
                raise StopError
            return real(trainer, *args)

        return at_update

    again = plan(f"spilled-{update}", "average", checkpoint_minutes=1e-9)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(loop, "update", dying(loop.update))
        patch.setattr(loop, "pour", dying(loop.pour))  # 12 updates are all there are
        train(source, again)
    (resumed,) = train(source, again)
    job, _ = poured
    assert same(weights_of(resumed), weights_of(job))
    assert report_of(resumed) == report_of(job)


def test_a_frozen_fold_pours_its_head_and_keeps_its_backbone(source, monkeypatch):
    kept = {}
    real = soup.pour

    def keeping(trainer):
        kept.update(load_file(trainer.job.run_dir / "snapshot-4.safetensors"))
        real(trainer)

    monkeypatch.setattr(loop, "pour", keeping)
    (job,) = train(source, plan("frozen-soup", **{"model.frozen": True}))
    assert {key.split(".")[0] for key in kept} == {"head", "logit_scale"}
    assert any(key.startswith("backbone.") for key in weights_of(job))
    assert report_of(job)["taken"]


def test_only_the_last_training_of_a_fold_with_stages_is_poured(source):
    (job,) = train(source, plan("staged-soup", **{"schedule.stages": ({"epochs": 1},)}))
    assert report_of(job)["taken"]
    (stage,) = job.stages
    assert not (stage.run_dir / "soup.json").exists()
    assert set(stage.train.index) == set(job.train.index)


def test_one_class_per_image_is_judged_by_probabilities(single_source):
    (job,) = train(single_source, plan("single-soup", **{"loss.name": "ce"}))
    assert report_of(job)["metric"] == "macro-F1"
    assert 0 <= report_of(job)["snapshots"]["4"] <= 1


def test_a_soup_and_the_best_epoch_are_refused_together():
    with pytest.raises(ValidationError, match="both choose epochs"):
        tiny_recipe(**{"soup.kind": "greedy", "predict.weights": "best"})
