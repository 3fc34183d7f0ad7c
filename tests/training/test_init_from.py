"""A run that starts from the weights of another run: what it loads, and the leakage check."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from cxrlt.artifacts import read_json
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from cxrlt.folds.make import make_folds, read_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.provenance import digest_of_weights
from cxrlt.training import init_from
from cxrlt.training.setup import create_fold_loss, create_initial_model
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from tiny import load_weights, make_tiny, same_weights, tiny_recipe
from user_errors import raises_user_error

pytestmark = pytest.mark.slow

SPLITS = ("train", "dev", "test")


def plan(name, init_from=None, folds=(0,), refit=False, seed=0, **over):
    recipe = tiny_recipe(**{"schedule.epochs": 1, "model.init_from": init_from, **over})
    return TrainPlan(name, recipe, folds=None if refit else folds, refit=refit, seed=seed)


def job_of(source, *args, **over):
    (job,) = create_fold_jobs(source, plan(*args, **over))
    return job


def initial_weights(job, **over):
    return create_initial_model(job, create_fold_loss(job), **over).state_dict()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> ImageSource:
    """A tiny challenge with the runs `base` (fold 0), `souped` (fold 0) and `all` (refit)."""
    source = make_tiny(tmp_path_factory.mktemp("starts"))
    train(source, plan("base"))
    train(source, plan("souped", **{"soup": {"kind": "average"}}))
    train(source, plan("all", refit=True))
    return source


@pytest.fixture
def twin(trained, tmp_path, monkeypatch):
    """`twin(edit, seed)`: another challenge below the root of `trained`; `edit(split, table)` changes it."""
    made, twins = iter(range(100)), {"csv": trained.challenge}

    def make(edit=lambda split, table: table, seed=0) -> ImageSource:
        name = f"{tmp_path.name}-{next(made)}"
        root = trained.workspace.root
        there, here = root / "inputs" / "csv", root / "inputs" / name
        here.mkdir()
        (here / "pictures").symlink_to(there / "pictures")
        (here / "challenge.yaml").write_text((there / "challenge.yaml").read_text())
        for split in SPLITS:
            edit(split, pd.read_csv(there / f"{split}.csv")).to_csv(here / f"{split}.csv", index=False)
        twins[name] = challenge = dataclasses.replace(get_challenge("csv", here), name=name)
        monkeypatch.setattr(init_from, "get_challenge", lambda name, _: twins[name])
        make_folds(challenge, trained.workspace, 3, seed=seed)
        return ImageSource(challenge, trained.workspace)

    return make


def rename_images(split, table):
    """Change the image ids but not the patient ids."""
    return table.assign(image="other-" + table["image"])


def training_rows_of_fold0(trained: ImageSource) -> tuple[set[str], set[str]]:
    """Return the images and patients that fold 0 of the tiny challenge is trained on."""
    frame = read_folds(trained.challenge, trained.workspace).frame
    frame = frame[frame["fold"] != 0]
    return set(frame.index), set(frame["patient"])


def test_a_fold_starts_from_the_whole_model_of_the_same_fold(trained, capsys):
    (source_job,) = create_fold_jobs(trained, plan("base"))
    job = job_of(trained, "follows", "base")
    assert same_weights(initial_weights(job, log=print), load_weights(source_job))
    assert "fold 0: backbone and head from csv:base fold 0\n" in capsys.readouterr().out
    assert same_weights(initial_weights(job_of(trained, "follows", "csv:base")), initial_weights(job))


def test_another_head_is_new_and_its_bias_starts_where_the_loss_is_least(trained, capsys):
    (source_job,) = create_fold_jobs(trained, plan("base"))
    over = {"model.head.name": "csra"}
    state, fresh = (initial_weights(job_of(trained, "csra", start, **over)) for start in ("base", None))
    heads = [key for key in state if key.startswith("head.")]
    assert heads
    assert same_weights({key: state[key] for key in heads}, {key: fresh[key] for key in heads})
    backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
    assert all(torch.equal(value, load_weights(source_job)[key]) for key, value in backbone.items())
    initial_weights(job_of(trained, "csra", "base", **over), log=print)
    assert "backbone from csv:base fold 0; new: head" in capsys.readouterr().out


def test_other_classes_mean_a_new_head(trained, twin):
    def two_classes(split, table):
        return rename_images(split, table).rename(columns={"Hernia": "Ring"})

    there = trained.workspace.root / "inputs" / "csv" / "challenge.yaml"
    spec = there.read_text()
    try:
        there.write_text(spec.replace("Hernia", "Ring"))
        source = twin(two_classes)
    finally:
        there.write_text(spec)
    assert source.challenge.classes == ("Effusion", "Mass", "Ring")
    start, none = (job_of(source, "rings", init_from) for init_from in ("csv:base", None))
    assert torch.equal(initial_weights(start)["head.bias"], initial_weights(none)["head.bias"])


def test_timms_weights_are_not_asked_for_where_a_run_gives_them(trained):
    job = job_of(trained, "follows", "base", **{"model.pretrained": Path("nowhere.safetensors")})
    assert initial_weights(job)


def test_the_run_says_what_it_started_from_and_under_which_licence(trained):
    (job,) = train(trained, plan("told", "base"))
    run = read_json(job.run_dir / "run.json", made_by="")
    weights = trained.workspace.run_dir("csv", "base") / "fold0" / "weights.safetensors"
    expected = {"run": "csv:base", "fold": "0", "weights": digest_of_weights(weights)}
    assert expected.items() <= run["started_from"].items()
    assert read_json(job.run_dir / "card.json", made_by="")["pretrained_weights_licence"] == (
        "none (random weights)"
    )
    (again,) = train(trained, plan("told-again", "told"))
    run = read_json(again.run_dir / "run.json", made_by="")
    assert run["started_from"]["started_from"]["run"] == "csv:base"


def test_a_run_with_stages_says_what_the_first_of_them_started_from(trained):
    job = job_of(trained, "staged", "base", **{"schedule.stages": ({"epochs": 1}, {"epochs": 1})})
    origins = [part.run.init_from.origin for part in (*job.stages, job)]
    assert [origin.run if origin else None for origin in origins] == ["csv:base", None, "csv:base"]


def test_a_finished_run_is_not_done_when_its_source_was_trained_anew(trained):
    train(trained, plan("early"))
    train(trained, plan("late", "early"))
    train(trained, plan("late", "early"))
    (job,) = train(trained, dataclasses.replace(plan("early", **{"optim.lr": 1e-3}), force=True))
    with raises_user_error("late", "csv:early fold 0", "--force"):
        train(trained, plan("late", "early"))
    (late,) = train(trained, dataclasses.replace(plan("late", "early"), force=True))
    run = read_json(late.run_dir / "run.json", made_by="")
    assert run["started_from"]["weights"] == digest_of_weights(job.run_dir / "weights.safetensors")


@pytest.mark.parametrize(
    ("init_from", "fold", "words"),
    [
        ("base", 1, r"fold1 is not trained.*cxrlt train RECIPE --name base --challenge csv --fold 1"),
        ("absent", 0, r"cxrlt train RECIPE --name absent --challenge csv --fold 0"),
        ("all", 0, r"all was trained on all rows \(--refit\), including the validation rows of fold 0"),
        ("mine", 0, r"a run cannot start from itself"),
        ("other:base", 0, r"cxrlt train RECIPE --name base --challenge other --fold 0"),
    ],
)
def test_a_source_that_is_not_there_or_no_source_is_refused(trained, init_from, fold, words):
    with pytest.raises(UserError, match=words):
        job_of(trained, "mine", init_from, folds=(fold,))


def test_a_refit_starts_from_a_refit(trained):
    job = job_of(trained, "all-on", "all", refit=True)
    assert job.run.init_from.weights.parent.name == "refit"
    with pytest.raises(UserError, match=r"refit is not trained.*--name base --challenge csv --refit"):
        job_of(trained, "all-on", "base", refit=True)


def test_a_source_of_another_split_is_refused(trained):
    path = trained.workspace.run_dir("csv", "base") / "fold0" / "run.json"
    run = path.read_text()
    path.write_text(json.dumps(json.loads(run) | {"provenance": {"rows": "0" * 64}}))
    try:
        with pytest.raises(
            UserError, match=r"csv:base was trained on a split that differs.*--fold 0 --force"
        ):
            job_of(trained, "mine", "base")
    finally:
        path.write_text(run)


def test_the_rows_that_judge_a_soup_must_not_have_trained_the_source(trained):
    soup = {"soup": {"kind": "greedy"}}
    holdout = job_of(trained, "bowl", **soup).data.holdout
    words = (
        rf"csv:base fold 0 .*{len(holdout)} images.*{holdout.index[0]}.*same data\.holdout_share and --seed"
    )
    with pytest.raises(UserError, match=words):
        job_of(trained, "bowl", "base", **soup)
    assert job_of(trained, "bowl", "souped", **soup).run.init_from
    with pytest.raises(UserError, match=r"csv:souped fold 0"):
        job_of(trained, "bowl", "souped", seed=1, **soup)


def test_images_of_another_challenge_with_the_same_split_may_have_trained_the_source(trained, twin):
    assert job_of(twin(seed=0), "mine", "csv:base").run.init_from


def test_images_and_patients_that_another_challenge_trained_on_are_refused_with_their_number(trained, twin):
    source = twin(seed=1)
    valid = job_of(source, "mine").data.valid
    _, patients = training_rows_of_fold0(trained)
    seen = valid.index[valid["patient"].isin(patients)]
    assert 0 < len(seen) < len(valid)
    with raises_user_error(f"{len(seen)} images", "csv:base fold 0", seen[0]):
        job_of(source, "mine", "csv:base")


def test_a_patient_is_known_again_under_another_name_by_a_common_image(twin):
    def one_view(split, table):
        return table[table["view"] == "PA"] if split == "train" else table

    def other_names(split, table):
        return table.assign(patient="x" + table["patient"])

    theirs, ours = twin(one_view), twin(other_names, seed=1)
    (source_job,) = train(theirs, plan("one-view"))
    valid = job_of(ours, "mine").data.valid
    seen = valid[valid["patient"].isin("x" + source_job.data.train["patient"])]
    assert set(seen["view"]) == {"frontal", "lateral"}
    with pytest.raises(UserError, match=rf"{theirs.challenge.name}:one-view fold 0 .* {len(seen)} images"):
        job_of(ours, "mine", f"{theirs.challenge.name}:one-view")


def test_a_test_image_that_trained_the_source_is_refused(trained, twin):
    images, _ = training_rows_of_fold0(trained)
    leaked = sorted(images)[:2]

    def into_test(split, table):
        if split == "train":
            rest = rename_images(split, table[~table["image"].isin(leaked)])
            return rest.assign(patient="o" + rest["patient"])
        if split == "test":
            theirs = pd.read_csv(trained.workspace.root / "inputs" / "csv" / "train.csv")
            theirs = theirs[theirs["image"].isin(leaked)].assign(patient="nobody else")
            return pd.concat([table, theirs[table.columns]])
        return table

    with pytest.raises(UserError, match=r"csv:base fold 0 .* 2 images"):
        job_of(twin(into_test), "mine", "csv:base")


def test_another_collection_may_have_been_seen_whole_though_its_patients_are_called_alike(trained, twin):
    job = job_of(twin(rename_images), "mine", "csv:all")
    assert job.run.init_from.label == "csv:all refit"


def test_the_sources_source_must_not_have_seen_the_left_out_rows_either(trained, twin):
    elsewhere = twin(rename_images)
    name = elsewhere.challenge.name
    train(elsewhere, plan("from-all", "csv:all"))
    train(elsewhere, plan("from-base", "csv:base"))
    valid = job_of(trained, "mine").data.valid
    with pytest.raises(UserError, match=rf"csv:all fold refit .* {len(valid)} images"):
        job_of(trained, "mine", f"{name}:from-all")
    assert job_of(trained, "mine", f"{name}:from-base").run.init_from
