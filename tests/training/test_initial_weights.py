"""Weights from a pretraining: their terms and the images they have seen are in every record and report."""

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import timm
from safetensors.torch import save_file

from cxrlt.artifacts import read_json
from cxrlt.challenges import get_challenge
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.errors import UserError
from cxrlt.experiments import ExperimentPlan
from cxrlt.experiments.combined_report import Cell
from cxrlt.experiments.compare import compare
from cxrlt.experiments.lists.tricks import TrickExperiment
from cxrlt.folds.rows import read_train_rows
from cxrlt.inputs.images import ImageSource
from cxrlt.models.hub import FetchedFile
from cxrlt.predictions.predict import predict
from cxrlt.recipe import save_recipe
from cxrlt.reports.score_table import leaderboard_table, score_table
from cxrlt.submissions.evaluate import evaluate, leaderboard
from cxrlt.submissions.score import score_file
from cxrlt.submissions.submit import submit
from cxrlt.system.atomic_files import sha256_of
from cxrlt.training import init_from
from cxrlt.training.init_from import add_initial_weights
from cxrlt.training.initial_weights import InitialWeights, SeenImages, count_seen_images, weights_notes
from cxrlt.training.job import FoldJob, InitFrom
from cxrlt.training.record import Origin, read_run_record
from cxrlt.training.train import TrainPlan, create_fold_jobs, train
from tiny import make_tiny, tiny_recipe
from user_errors import raises_user_error

SOURCES = {"nih14-train": ("train",), "nih14-test": ("test",), "mimic": ()}
COUNTS = "5 of 48 train/OOF images (10.4%), 3 of 48 dev images (6.2%), 0 of 48 test images (0.0%)"
RESTRICTED = "the initial weights (rad-dino) are not free for every use (licence: own terms)"
COLLECTION = "were pretrained on images of csv, from nih14-train (train/OOF)"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> ImageSource:
    """A tiny challenge with images of known collections, a file of weights and a list of its images."""
    made = make_tiny(tmp_path_factory.mktemp("pretrained"))
    root, challenge = made.workspace.root, dataclasses.replace(made.challenge, image_sources=SOURCES)
    for name in ("weights", "others"):
        backbone = timm.create_model("test_convnext", in_chans=1, num_classes=0)
        save_file(backbone.state_dict(), root / f"{name}.safetensors")
    ids = [
        name
        for split, n in (("train", 5), ("dev", 3))
        for name in challenge.read(split, made.workspace.inputs_dir("csv")).index[:n]
    ]
    paths = [f"some/folder/{name}.jpg" for name in [*ids, *ids, "00000_PA", "elsewhere"]]
    pd.DataFrame({"dataset": "known", "path": paths}).to_csv(root / "seen.csv", index=False)
    return dataclasses.replace(made, challenge=challenge)


def plan(source: ImageSource, name: str = "local", folds=None, **over: object) -> TrainPlan:
    root = source.workspace.root
    fields = {
        "schedule.epochs": 1,
        "model.pretrained": root / "weights.safetensors",
        "model.pretrained_on": ("nih14-train", "imagenet"),
        "model.pretrained_images": root / "seen.csv",
    }
    return TrainPlan(name, tiny_recipe(**{**fields, **over}), folds=folds)


@pytest.fixture(scope="module")
def trained(source) -> ImageSource:
    """The run `local` from the file, and its copy `plain` that says it started from random weights."""
    train(source, plan(source))
    predict(source, "local", "oof")
    predict(source, "local", "test")
    run_dir = source.workspace.run_dir("csv", "local")
    for path in run_dir.glob("*/run.json"):
        edit_weights(path, {"restricted": True, "weights": "rad-dino", "licence": "own terms"})
    shutil.copytree(run_dir, run_dir.parent / "plain")
    for path in (run_dir.parent / "plain").glob("*/run.json"):
        edit_weights(path, InitialWeights(licence="none (random weights)").model_dump(mode="json"))
    return source


def edit_weights(path: Path, values: dict[str, object]) -> None:
    run = json.loads(path.read_text())
    path.write_text(json.dumps(run | {"initial_weights": run["initial_weights"] | values}))


def weights_of(job) -> InitialWeights:
    return read_run_record(job.run_dir, "csv").initial_weights


@pytest.mark.slow
def test_run_and_card_say_which_file_and_how_many_images_of_each_split_it_has_seen(trained):
    root = trained.workspace.root
    jobs = train(trained, plan(trained))
    assert len(jobs) == 3
    for job in jobs:
        weights = weights_of(job)
        assert weights.sha256 == sha256_of(root / "weights.safetensors")
        assert weights.pretrained_on == ("nih14-train", "imagenet")
        assert {split: (count.seen, count.images) for split, count in weights.seen.items()} == {
            "train": (5, 48),
            "dev": (3, 48),
            "test": (0, 48),
        }
        card = read_json(job.run_dir / "card.json", made_by="")
        assert card["initial_weights"]["seen"]["dev"] == {"seen": 3, "images": 48}
        assert card["initial_weights"]["sha256"] == weights.sha256


@pytest.mark.slow
def test_scores_leaderboard_and_submission_repeat_it_and_random_weights_say_nothing(trained, tmp_path):
    known = trained.challenge, trained.workspace
    table = score_table(evaluate(*known, "local", n_draws=5))
    assert all(words in table for words in (COUNTS, RESTRICTED, COLLECTION, "must say it"))
    assert "initial weights" not in score_table(evaluate(*known, "plain", n_draws=5))
    board = leaderboard_table(leaderboard(*known, n_draws=5))
    assert f"* local: {RESTRICTED}" in board
    assert "* plain" not in board
    written = submit(*known, "local")
    assert all(words in str(written) for words in (COUNTS, RESTRICTED, COLLECTION))
    ids = pd.read_csv(written.csv_path)["image"]
    truth = pd.DataFrame({"image": ids, **dict.fromkeys(known[0].classes, [0, 1] * (len(ids) // 2))})
    truth.to_csv(tmp_path / "truth.csv", index=False)
    assert COUNTS in score_table(score_file(written.csv_path, tmp_path / "truth.csv", *known))


@pytest.mark.slow
def test_an_ensemble_repeats_what_its_members_say_by_name_unless_it_is_true_of_all(trained):
    known = trained.challenge, trained.workspace
    assert f"local: {RESTRICTED}" in str(make_ensemble(*known, "mix", ["plain", "local"], kind="mean"))
    assert f"note: local: {RESTRICTED}" in score_table(evaluate(*known, "mix", n_draws=5))
    shutil.copytree(trained.workspace.run_dir("csv", "local"), trained.workspace.run_dir("csv", "twin"))
    text = str(make_ensemble(*known, "both", ["twin", "local"], kind="mean"))
    assert f"  {RESTRICTED}" in text
    assert COUNTS in text


@pytest.mark.slow
def test_a_comparison_and_the_combined_report_repeat_it(trained):
    root = trained.workspace.root
    save_recipe(plan(trained, **{"predict.study_mean": "off"}).recipe, root / "tiny.yaml")
    options = {"seeds": 1, "folds": (0,), "workers": 1, "name": "compared"}
    comparison = ExperimentPlan(recipe=str(root / "tiny.yaml"), tricks=("study_mean",), **options)
    text = compare(TrickExperiment(trained, comparison))
    page = (trained.workspace.submission_dir("csv", "compared") / "report.html").read_text()
    assert all(words in text and words in page for words in (COUNTS, COLLECTION))
    cell = Cell(trained.challenge, "tiny", "compared", {"fair": trained.workspace})
    (note,) = cell.notes()
    assert note.startswith("Protocol fair, recipe tiny: the initial weights were pretrained")
    assert COUNTS in note


@pytest.mark.slow
def test_training_warns_and_a_run_that_starts_from_the_run_inherits_everything(trained, capsys):
    unknown = {"model.pretrained": True, "model.pretrained_on": (), "model.pretrained_images": None}
    (job,) = train(trained, plan(trained, "follows", (0,), **unknown, **{"model.init_from": "local"}))
    said = capsys.readouterr().out
    assert all(f"train follows: {words}" in said for words in (RESTRICTED, "the initial weights were"))
    assert COUNTS in said
    (first, *_) = create_fold_jobs(trained, plan(trained))
    assert weights_of(job) == weights_of(first)


@pytest.mark.slow
def test_another_file_under_the_same_path_is_refused(trained):
    root, folds = trained.workspace.root, (0, 1, 2)
    over = {"model.pretrained": root / "changing.safetensors"}
    shutil.copy(root / "weights.safetensors", root / "changing.safetensors")
    (job,) = train(trained, plan(trained, "changing", (0,), **over))
    shutil.copy(root / "others.safetensors", root / "changing.safetensors")
    train(trained, plan(trained, "changing", (0,), **over))  # finished: the file is not needed
    now = sha256_of(root / "changing.safetensors")
    with raises_user_error("changing/fold0", weights_of(job).sha256, now, "--force", "--name"):
        train(trained, plan(trained, "changing", folds, **over))


def test_the_list_is_counted_once_for_all_folds(source, monkeypatch):
    calls = []
    monkeypatch.setattr(init_from, "count_seen_images", lambda *given: calls.append(given) or {})
    assert len(create_fold_jobs(source, plan(source, "once"))) == 3
    assert len(calls) == 1


def test_random_weights_have_seen_nothing(source, capsys):
    for job in create_fold_jobs(source, plan(source, "random", **{"model.pretrained": False})):
        assert job.run.initial_weights == InitialWeights(licence="none (random weights)")
        assert notes_of(job, source) == []


def inherited(source: ImageSource, run: str, weights: InitialWeights) -> InitialWeights:
    """Return the initial weights of a run that starts from `run`, which started from `weights`."""
    origin = Origin(run=run, fold="0", weights="", rows="")
    start = InitFrom(source.workspace.root, True, run, origin, initial_weights=weights)
    unknown = {"model.pretrained_on": (), "model.pretrained_images": None}
    (job,) = create_fold_jobs(source, plan(source, "later", (0,), **unknown))
    job = dataclasses.replace(job, run=dataclasses.replace(job.run, init_from=start))
    rows = read_train_rows(source.challenge, source.workspace)
    return add_initial_weights([job], source, rows, force=False)[0].run.initial_weights


def test_a_run_passes_on_the_list_of_its_source_and_the_images_of_this_challenge_are_counted(source):
    weights = InitialWeights(
        pretrained_on=("mimic",),
        pretrained_images=str(source.workspace.root / "seen.csv"),
        seen={"dev": SeenImages(seen=7, images=9)},
    )
    found = inherited(source, "other:base", weights)
    assert found.pretrained_on == ("mimic",)
    assert {split: count.seen for split, count in found.seen.items()} == {"train": 5, "dev": 3, "test": 0}
    with raises_user_error("/gone/seen.csv", "model.pretrained_images"):
        inherited(source, "other:base", weights.model_copy(update={"pretrained_images": "/gone/seen.csv"}))


def test_terms_are_those_of_the_row_and_revision_and_hash_those_of_the_file_from_the_hub(source, monkeypatch):
    file = source.workspace.root / "weights.safetensors"
    monkeypatch.setattr(init_from, "fetch", lambda address: FetchedFile(file, f"commit of {address}"))
    over = {"model.pretrained": Path("hf-hub:a/b/c.pth@main"), "model.weights": "ark-6"}
    (job,) = create_fold_jobs(source, plan(source, "hub", (0,), **over))
    weights = job.run.initial_weights
    assert (weights.weights, weights.restricted) == ("ark-6", True)
    assert "non-commercial" in weights.licence
    assert (weights.address, weights.revision) == ("hf-hub:a/b/c.pth@main", "commit of hf-hub:a/b/c.pth@main")
    assert weights.sha256 == sha256_of(file)


@pytest.mark.parametrize(
    ("backbone", "restricted"),
    [
        ("convnextv2_base.fcmae_ft_in22k_in1k", True),  # cc-by-nc-4.0
        ("regnety_320.seer", True),  # seer-license
        ("resnet50.a1_in1k", False),  # apache-2.0
    ],
)
def test_weights_of_timm_that_forbid_commercial_use_are_restricted(source, backbone, restricted):
    over = {"model.pretrained": True, "model.pretrained_on": (), "model.backbone": backbone}
    (job,) = create_fold_jobs(source, plan(source, "timm", (0,), **over, **{"model.pretrained_images": None}))
    assert any(job.run.initial_weights.licence in note for note in notes_of(job, source)) == restricted


def notes_of(job: FoldJob, source: ImageSource) -> list[str]:
    return weights_notes(job.run.initial_weights, source.challenge)


@pytest.mark.parametrize(
    ("challenge", "collection", "splits"),
    [
        ("nih14", "nih14-test", ["test"]),
        ("nih14", "nih14", ["train", "test"]),
        ("nih14", "rsna", ["train", "test"]),
        ("nihlt", "nih14-train", ["train", "dev"]),
        ("nihlt-single", "NIH14-test", ["dev", "test"]),
        ("cxrlt2023", "mimic-cxr", ["train", "dev", "test"]),
        ("cxrlt2024-task2", "mimic", ["train", "dev", "test"]),
        ("cxrlt2024-task1", "padchest", []),
        ("covid-radiography", "nih14-train", ["train"]),
        ("ham10000", "isic2019", ["train"]),
        ("isic2018", "ham10000", ["train"]),
        ("demo", "mimic", []),
    ],
)
def test_a_collection_is_found_by_its_name_or_a_part_of_it_in_the_splits_that_hold_it(
    challenge, collection, splits
):
    assert get_challenge(challenge).splits_from(collection) == splits


@pytest.mark.parametrize(
    ("column", "listed"),
    [
        ("dicom_id", ["a", "b"]),
        ("Image Index", ["a.png", "b.jpeg"]),
        ("image", ["x/a.dcm", "b"]),
        ("where", [r"C:\x\a.PNG", "y/b.nii", "z/b.tif"]),
    ],
)
def test_images_are_compared_by_file_name_without_suffix_and_with_case(tmp_path, column, listed):
    pd.DataFrame({column: [*listed, "A", "c.d"], "n": 1}).to_csv(tmp_path / "list.csv", index=False)
    ids = pd.Index(["a", "b.png", "B", "c", "d"], name="image_id")
    tables = {"dev": pd.DataFrame({"path": [f"p/{k}.png" for k in range(5)]}, ids)}
    assert count_seen_images(tmp_path / "list.csv", tables, "id")["dev"] == SeenImages(seen=2, images=5)


def test_the_same_file_name_in_every_folder_is_compared_with_its_folder(tmp_path):
    paths = ["p1/view1.jpg", "p2/view1.jpg", "p3/view1.jpg"]
    pd.DataFrame({"path": paths[:2]}).to_csv(tmp_path / "list.csv", index=False)
    tables = {"dev": pd.DataFrame({"path": paths}, pd.Index(["1", "2", "3"]))}
    assert count_seen_images(tmp_path / "list.csv", tables, "id")["dev"].seen == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ("", "empty"),
        ("image_id\n", "no rows"),
        (
            "label,n\nx,1\n",
            "no column with the names of images, only label, n. Name the column image_id or path",
        ),
        ("image_id,n\n,1\n", "no column with the names of images"),
    ],
)
def test_a_list_without_names_of_images_is_an_error_of_one_sentence(source, tmp_path, content, words):
    path = tmp_path / "list.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"list\.csv") as caught:
        create_fold_jobs(source, plan(source, "bad", (0,), **{"model.pretrained_images": path}))
    assert words in str(caught.value)
