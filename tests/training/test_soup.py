"""A soup of a fold's last epochs is scored on holdout rows, never on the fold's validation rows."""

import dataclasses
import math
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from sklearn.metrics import average_precision_score

from cxrlt.artifacts import read_json
from cxrlt.folds.make import make_folds
from cxrlt.metrics import macro_metric
from cxrlt.models.backbone import create_model
from cxrlt.training.datasets import create_eval_dataset
from cxrlt.training.infer import infer
from cxrlt.training.plan import draw_holdout
from cxrlt.training.setup import create_accelerator
from cxrlt.training.soup import average_soup, average_weights, greedy_soup
from cxrlt.training.train import TrainPlan, create_fold_jobs, train, train_fold
from interruptions import CrashError, crash_in_update, on_each_forward, raise_crash
from tiny import CLASSES, load_weights, make_tiny, same_weights, tiny_recipe

pytestmark = pytest.mark.slow

SCORES = {(1,): 0.5, (2,): 0.7, (3,): 0.6, (2, 3): 0.7, (1, 2, 3): 0.6}


def plan(name, kind="greedy", folds=(0,), **over):
    fields = {"soup": {"kind": kind, "snapshots": 3}, "data.holdout_share": 0.25, "schedule.epochs": 4}
    return TrainPlan(name, tiny_recipe(**fields, **over), folds=folds)


def with_table(job, table):
    return dataclasses.replace(job, data=dataclasses.replace(job.data, table=table))


def report_of(job):
    return read_json(job.run_dir / "soup.json", made_by="")


def epochs_done(run_dir):
    log = run_dir / "log.csv"
    return len(pd.read_csv(log)) if log.is_file() else 0


@contextmanager
def recording_snapshots(run_dir):
    """Collect the snapshots by epoch while the training inside the context manager still has them."""
    kept = {}

    def keep(*_):
        for path in run_dir.glob("snapshot-*.safetensors"):
            kept.setdefault(int(path.stem.removeprefix("snapshot-")), load_file(path))

    with on_each_forward(keep):
        yield kept


def mean(kept, epochs):
    """The mean of some snapshots, in float64."""
    return {
        key: torch.stack([kept[epoch][key].double() for epoch in epochs]).mean(0) for key in kept[epochs[0]]
    }


def logits_on(job, table, weights):
    """Return the logits of the rows for a model with these weights."""
    model = create_model(job.recipe.model, len(CLASSES), job.recipe.data.size)
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    dataset = create_eval_dataset(job.recipe, table, CLASSES, job.data.cache)
    options = {"task": job.challenge.task, "batch_size": 16, "n_workers": 0}
    accelerator = create_accelerator(job.recipe)
    return infer(model, dataset, list(table.index), tuple(CLASSES), accelerator, **options).to_numpy()


@pytest.fixture(scope="module")
def averaged(source):
    """A fold trained with an average soup, and its snapshots."""
    with recording_snapshots(source.workspace.run_dir("csv", "averaged") / "fold0") as kept:
        (job,) = train(source, plan("averaged", "average"))
    return job, kept


def test_greedy_adds_what_does_not_lower_the_score_of_the_average():
    tried = greedy_soup((1, 2, 3), SCORES.__getitem__)
    assert [(one.epochs, one.taken) for one in tried] == [((2,), True), ((2, 3), True), ((1, 2, 3), False)]


def test_of_equal_epochs_greedy_begins_with_the_last():
    assert greedy_soup((1, 2), lambda epochs: 0.5)[0].epochs == (2,)


@pytest.mark.parametrize(("mean", "taken"), [(0.6, True), (0.61, True), (0.59, False)])
def test_the_average_of_all_is_taken_if_it_scores_no_less_than_the_last(mean, taken):
    last, everything = average_soup((1, 2, 3), {(3,): 0.6, (1, 2, 3): mean}.__getitem__)
    assert (last.epochs, last.taken) == ((3,), True)
    assert (everything.epochs, everything.taken) == ((1, 2, 3), taken)


@pytest.mark.parametrize("choose", [greedy_soup, average_soup])
def test_without_a_score_the_last_epoch_stays(choose):
    taken = [one.epochs for one in choose((1, 2, 3), lambda epochs: math.nan) if one.taken]
    assert taken == [(3,)]


def test_a_mean_takes_floats_of_all_and_the_rest_of_the_last(tmp_path):
    paths = [tmp_path / f"{n}.safetensors" for n in range(3)]
    for n, path in enumerate(paths):
        running = torch.full((2,), float(n * n))
        save_file({"bn.running_var": running, "bn.num_batches_tracked": torch.tensor(n)}, path)
    mean = average_weights(paths)
    assert torch.equal(mean["bn.running_var"], torch.full((2,), 5 / 3))
    assert mean["bn.running_var"].dtype == torch.float32
    assert mean["bn.num_batches_tracked"] == 2


def test_a_mean_of_one_is_that_one(tmp_path):
    save_file({"weight": torch.rand(9)}, tmp_path / "one.safetensors")
    assert same_weights(
        average_weights([tmp_path / "one.safetensors"]), load_file(tmp_path / "one.safetensors")
    )


def test_the_weights_are_the_mean_of_the_last_epochs_and_the_report_says_so(averaged):
    job, kept = averaged
    report = report_of(job)
    assert set(kept) == {2, 3, 4} == {int(epoch) for epoch in report["snapshots"]}
    last, everything = report["tried"]
    assert (last["epochs"], everything["epochs"]) == ([4], [2, 3, 4])
    assert last["score"] == report["snapshots"]["4"]
    assert everything["taken"] == (everything["score"] >= last["score"])
    assert report["taken"] == ([2, 3, 4] if everything["taken"] else [4])
    assert report["n_holdout_images"] == len(job.data.holdout)
    expected = mean(kept, report["taken"])
    for key, value in load_weights(job).items():
        assert torch.allclose(value.double(), expected[key], atol=1e-7), key


def test_snapshots_are_removed_when_the_fold_is_done(averaged):
    job, _ = averaged
    assert [path.name for path in job.run_dir.glob("*.safetensors")] == ["weights.safetensors"]


def test_a_snapshot_is_what_its_epoch_was_validated_with(source):
    run_dir = source.workspace.run_dir("csv", "snapshots") / "fold0"
    validated = {}

    def record_call(model, *_):
        if not model.training:
            state = {key: value.clone() for key, value in model.state_dict().items()}
            validated.setdefault(epochs_done(run_dir) + 1, state)

    with recording_snapshots(run_dir) as kept, on_each_forward(record_call):
        train(source, plan("snapshots", "average"))
    assert set(kept) == {2, 3, 4}
    assert all(same_weights(kept[epoch], validated[epoch]) for epoch in kept)


def test_every_score_is_of_the_inner_rows(source):
    with recording_snapshots(source.workspace.run_dir("csv", "judged") / "fold0") as kept:
        (job,) = train(source, plan("judged", **{"optim.lr": 3e-2, "optim.ema_share": 0.1}))

    def score(epochs, table=job.data.holdout):
        return macro_metric(
            source.challenge.metric, job.data.targets(table), logits_on(job, table, mean(kept, epochs))
        )

    report = report_of(job)
    alone = {(int(epoch),): found for epoch, found in report["snapshots"].items()}
    assert set(alone) == {(2,), (3,), (4,)}
    found = alone | {tuple(one["epochs"]): one["score"] for one in report["tried"]}
    assert len(found) > len(alone)
    assert len(set(found.values())) > 1
    assert found == pytest.approx({epochs: score(epochs) for epochs in found})
    assert found != pytest.approx({epochs: score(epochs, job.data.valid) for epochs in found})


def test_a_class_with_positives_and_blanks_only_is_not_in_the_scores_of_a_soup(source):
    (job,) = create_fold_jobs(source, plan("judged-blank", "average"))
    table = job.data.table.assign(Effusion=job.data.table["Effusion"].where(job.data.table["Effusion"] == 1))
    job = with_table(job, table)
    job.run_dir.mkdir(parents=True)
    with recording_snapshots(job.run_dir) as kept:
        train_fold(job, create_accelerator(job.recipe))
    labels = job.data.holdout[CLASSES].to_numpy()
    others = [c for c in (1, 2) if len(set(labels[:, c])) == 2]

    def score(epochs):
        logits = logits_on(job, job.data.holdout, mean(kept, epochs))
        return np.mean([average_precision_score(labels[:, c], logits[:, c]) for c in others])

    report = report_of(job)
    assert report["snapshots"] == pytest.approx({str(epoch): score([epoch]) for epoch in (2, 3, 4)})
    assert [one["score"] for one in report["tried"]] == pytest.approx([score([4]), score([2, 3, 4])])


@pytest.mark.parametrize("refit", [False, True])
def test_no_patient_is_trained_on_judges_and_is_left_out(source, refit):
    wanted = dataclasses.replace(plan("parted", folds=None), refit=refit)
    for job in create_fold_jobs(source, wanted):
        parts = [
            set(table["patient"])
            for table in (job.data.train, job.data.holdout, job.data.valid)
            if len(table)
        ]
        assert sum(len(part) for part in parts) == len(set.union(*parts)) == 24
        assert len(job.data.train) + len(job.data.holdout) + len(job.data.valid) == 48
        others = 24 - (0 if refit else job.data.valid["patient"].nunique())
        assert job.data.holdout["patient"].nunique() == pytest.approx(others / 4, abs=1)
        assert job.data.class_counts == {name: int(job.data.train[name].sum()) for name in CLASSES}


def test_the_labels_of_the_left_out_rows_do_not_change_the_soup(source, averaged):
    job, _ = averaged
    (fresh,) = create_fold_jobs(source, plan("flipped", "average"))
    flipped = fresh.data.table.copy()
    flipped.loc[fresh.data.valid_mask, CLASSES] = 1 - fresh.data.valid[CLASSES]
    fresh.run_dir.mkdir(parents=True)
    train_fold(with_table(fresh, flipped), create_accelerator(fresh.recipe))
    assert same_weights(load_weights(fresh), load_weights(job))
    assert report_of(fresh) == report_of(job)
    logs = [pd.read_csv(one.run_dir / "log.csv")["oof_mAP"] for one in (fresh, job)]
    assert not np.allclose(*logs)


@contextmanager
def crashing_in_soup(run_dir):
    """Crash the training in its first forward pass after the last epoch is logged."""
    with (
        pytest.raises(CrashError),
        on_each_forward(lambda *_: raise_crash() if epochs_done(run_dir) == 4 else None),
    ):
        yield


@pytest.mark.parametrize("update", [8, 12, None])
def test_an_interrupted_fold_pours_the_same_soup(source, averaged, update):
    again = plan(f"spilled-{update}", "average", checkpoint_minutes=1e-9)
    run_dir = source.workspace.run_dir("csv", again.name) / "fold0"
    with crashing_in_soup(run_dir) if update is None else crash_in_update(update):
        train(source, again)
    assert not (run_dir / "soup.json").exists()
    (resumed,) = train(source, again)
    job, _ = averaged
    assert same_weights(load_weights(resumed), load_weights(job))
    assert report_of(resumed) == report_of(job)


def test_a_frozen_fold_pours_its_head_and_keeps_its_backbone(source):
    with recording_snapshots(source.workspace.run_dir("csv", "frozen-soup") / "fold0") as kept:
        (job,) = train(source, plan("frozen-soup", **{"model.frozen": True}))
    assert {key.split(".")[0] for key in kept[4]} == {"head", "logit_scale"}
    assert any(key.startswith("backbone.") for key in load_weights(job))
    assert report_of(job)["taken"]


def test_only_the_last_training_of_a_fold_with_stages_makes_a_soup(source):
    (job,) = train(source, plan("staged-soup", **{"schedule.stages": ({"epochs": 1},)}))
    assert report_of(job)["taken"]
    (stage,) = job.stages
    assert not (stage.run_dir / "soup.json").exists()
    assert set(stage.data.train.index) == set(job.data.train.index)


def test_one_class_per_image_is_judged_by_probabilities(single_source):
    (job,) = train(single_source, plan("single-soup", **{"loss.name": "ce"}))
    assert report_of(job)["metric"] == "macro-F1"
    assert 0 <= report_of(job)["snapshots"]["4"] <= 1


def test_a_soup_and_the_best_epoch_are_refused_together():
    for choice in ("best", "best_holdout"):
        with pytest.raises(ValidationError, match=f"weights {choice} both choose epochs"):
            tiny_recipe(**{"soup.kind": "greedy", "predict.weights": choice})


def test_with_folds_by_image_the_holdout_is_by_image_too(tmp_path):
    source = make_tiny(tmp_path, n_patients=12)
    options = {"by": "image", "allow_leakage": True, "force": True}
    make_folds(source.challenge, source.workspace, 2, **options)
    (job,) = create_fold_jobs(source, plan("by-image"))
    assert len(job.data.holdout) == len(job.data.train) // 3
    assert set(job.data.holdout["patient"]) & set(job.data.train["patient"])


def test_which_rows_judge_depends_on_seed_and_fold_alone(source):
    (job,) = create_fold_jobs(source, TrainPlan("asked", tiny_recipe(), folds=(0,)))
    rows = job.data.train

    def chosen(seed=0, fold="0", share=0.25):
        return set(draw_holdout(rows, job.data.classes, share, seed, fold))

    assert chosen() == chosen()
    assert len({frozenset(chosen(seed, fold)) for seed in range(2) for fold in "01"}) == 4
    assert 0 < len(chosen(share=0.01)) < len(chosen(share=0.5))


def test_a_finding_of_one_patient_stays_with_the_rows_trained_on(source):
    (job,) = create_fold_jobs(source, TrainPlan("rare", tiny_recipe(), folds=(0,)))
    rows = job.data.train
    for patient in rows["patient"].unique():
        rare = rows.assign(Rare=(rows["patient"] == patient).astype(float))
        assert patient not in set(rare.loc[draw_holdout(rare, ("Rare",), 0.1, 0, "0"), "patient"])
