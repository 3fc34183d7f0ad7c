"""A tiny grid of a paper, trained for one epoch."""

import shutil

import numpy as np
import pandas as pd
import pytest

from cxrlt.artifacts import Workspace
from cxrlt.errors import UserError
from cxrlt.experiments import ReproducePlan
from cxrlt.experiments.reproduce import reproduce
from cxrlt.folds.make import make_folds
from cxrlt.recipe import load_recipe, save_recipe
from cxrlt.reports.loss_figures import confusion_figure
from tiny import make_tiny, tiny_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return make_tiny(tmp_path_factory.mktemp("tiny"), task="single_label").workspace


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    save_recipe(tiny_recipe(**{"predict.study_mean": "off", "predict.weights": "best"}), path)
    return str(path)


@pytest.fixture(scope="module")
def plan(recipe):
    def make(**over) -> ReproducePlan:
        values = {"data": ("csv", "isic2019"), "recipes": (recipe,), "losses": ("ce", "bwcce")}
        return ReproducePlan(**{**values, "quick": True, "workers": 1, **over})

    return make


@pytest.fixture(scope="module")
def fair(workspace, plan) -> str:
    return reproduce(workspace, "lmf", plan())


@pytest.fixture(scope="module")
def both(fair, workspace, plan) -> str:
    """The report after both protocols: the second command keeps the results of the first."""
    return reproduce(workspace, "lmf", plan(protocol="paper"))


def weights(workspace):
    return {path: path.stat().st_mtime_ns for path in workspace.root.rglob("weights.safetensors")}


def runs(root, protocol_root="."):
    """Return the recipes of the reported runs of a protocol."""
    folder = root / protocol_root / "folds/csv/reproduce-lmf-quick/tiny"
    return [load_recipe(None, path) for path in sorted(folder.glob("*-seed0/fold0/config.yaml"))] or [
        load_recipe(None, path) for path in sorted(folder.glob("*/fold0/config.yaml"))
    ]


def test_a_set_without_files_is_skipped_with_one_line(workspace, plan, fair, capsys):
    reproduce(workspace, "lmf", plan())
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "isic2019" in line]
    assert line.startswith("isic2019 is skipped: ")
    assert "does not exist" in line


def test_a_finished_grid_is_not_trained_again(workspace, plan, fair):
    before = weights(workspace)
    assert reproduce(workspace, "lmf", plan()) == fair
    assert weights(workspace) == before


def test_the_combined_table_has_every_loss_of_both_protocols_side_by_side(workspace, both):
    folder = workspace.root / "submissions/reproduce-lmf-quick"
    results = pd.read_csv(folder / "results.csv")
    keys = list(results[["challenge", "recipe", "protocol", "variant"]].itertuples(index=False, name=None))
    assert keys == [
        ("csv", "tiny", protocol, loss) for protocol in ("fair", "paper") for loss in ("ce", "bwcce")
    ]
    assert "macro-F1, fair | macro-F1 minus ce [95 %], fair | macro-F1, paper" in both
    assert "| tiny | ce |" in both
    assert both.count("not available |") == 2  # no published number of these losses
    assert (folder / "results.md").read_text().strip() in both
    assert "F1 of each class" in (folder / "report.html").read_text()


def test_every_class_has_an_interval_and_a_paired_difference_to_the_reference(workspace, both):
    classes = pd.read_csv(workspace.root / "submissions/reproduce-lmf-quick/classes.csv")
    assert len(classes) == 2 * 2 * 3
    classes = classes.dropna(subset="F1")  # one of seven folds may have no image of a class
    assert len(classes) > 2 * 2 * 2
    assert (classes["F1 low"] <= classes["F1 high"]).all()
    bwcce = classes.query("variant == 'bwcce'").set_index(["protocol", "class"])
    ce = classes.query("variant == 'ce'").set_index(["protocol", "class"])
    assert ce["F1 difference"].isna().all()
    assert bwcce["F1 difference"].to_numpy() == pytest.approx((bwcce["F1"] - ce["F1"]).to_numpy())


def test_the_report_has_figures_of_every_class(workspace, fair):
    folder = workspace.root / "submissions/csv/reproduce-lmf-quick/tiny"
    page = (folder / "report.html").read_text()
    assert "F1 of every class, mean over seeds" in page
    assert "Confusion matrices" in page
    for name in ("classes_labels", "confusion_labels"):
        assert (folder / f"figures/{name}.png").stat().st_size > 5_000


def test_the_diagonal_of_a_confusion_matrix_is_the_recall(workspace, plan, fair, monkeypatch):
    matrices = {}

    def capture(shares):
        matrices.update(shares)
        return confusion_figure(shares)

    monkeypatch.setattr("cxrlt.experiments.figures.confusion_figure", capture)
    reproduce(workspace, "lmf", plan())
    results = pd.read_csv(workspace.root / "submissions/reproduce-lmf-quick/results.csv")
    recall = results.query("protocol == 'fair'").set_index("variant")["balanced-accuracy"]
    assert {name: np.diag(frame).mean() for name, frame in matrices.items()} == pytest.approx(dict(recall))
    assert all(frame.sum(axis=1).eq(1).all() for frame in matrices.values())


def test_quick_trains_one_epoch_of_fold_0(workspace, fair):
    recipes = runs(workspace.root)
    assert {recipe.schedule.epochs for recipe in recipes} == {1}
    assert not [*workspace.root.glob("folds/csv/reproduce-lmf-quick/**/fold1")]


def test_fair_takes_the_last_epoch_and_paper_the_recipes_own_at_one_rate(workspace, recipe, both):
    assert {recipe.predict.weights for recipe in runs(workspace.root)} == {"last"}
    published = runs(workspace.root, "folds/by-image")
    assert {recipe.predict.weights for recipe in published} == {"best"}
    assert {recipe.optim.lr for recipe in published} == {load_recipe(recipe).optim.lr}
    assert [*workspace.root.glob("folds/csv/reproduce-lmf-quick/tiny/tuning/*")]
    assert not [*workspace.root.glob("folds/by-image/folds/csv/**/tuning")]


def test_paper_splits_by_image_and_every_report_says_what_leaks(workspace, fair, both):
    folds = {
        name: pd.read_csv(workspace.root / name / "folds/csv/folds.csv") for name in (".", "folds/by-image")
    }
    assert folds["folds/by-image"]["fold"].nunique() == 7  # a seventh to test, as in the LMF paper
    n_folds = {name: frame.groupby("patient")["fold"].nunique() for name, frame in folds.items()}
    assert n_folds["."].max() == 1 < n_folds["folds/by-image"].max()
    report = workspace.root / "folds/by-image/submissions/csv/reproduce-lmf-quick/tiny/results.md"
    assert "leak" in report.read_text()
    assert "Protocol paper: split by image" in both
    assert "Protocol paper" not in fair
    assert "leak" not in (workspace.root / "submissions/csv/reproduce-lmf-quick/tiny/results.md").read_text()


def test_fair_refuses_folds_by_image(workspace, plan, tmp_path):
    source = make_tiny(tmp_path / "other", task="single_label", n_patients=6)
    options = {"by": "image", "allow_leakage": True, "force": True}
    make_folds(source.challenge, source.workspace, 3, **options)
    with pytest.raises(UserError, match="needs whole groups: cxrlt folds csv --n-folds 3 --seed 0 --force"):
        reproduce(source.workspace, "lmf", plan(data=("csv",)))


def test_list_jobs_prints_commands_and_trains_nothing(workspace, plan, tmp_path, capsys):
    source = make_tiny(tmp_path / "other", task="single_label", n_patients=6)
    shutil.rmtree(source.workspace.root / "folds")
    reproduce(source.workspace, "lmf", plan(data=("csv",), protocol="paper", list_jobs=True))
    printed = capsys.readouterr().out
    assert printed.count("cxrlt train ") == 2
    assert str(source.workspace.root / "folds/by-image") in printed
    assert not weights(source.workspace)


@pytest.mark.parametrize(
    ("paper", "over", "message"),
    [
        ("lmf", {"data": ("isic2019",)}, "lmf: every data set is skipped"),
        ("lmf", {"data": ("isic2o19",)}, "isic2019"),
        ("lmf", {"protocol": "paper", "rates": (1.0,)}, "every loss has the recipe's learning rate"),
        ("lmf", {"recipes": ("tyni",)}, "tyni"),
        ("lmf", {"folds": (9,)}, "reproduce-lmf-quick/tiny on csv: --folds 9: csv has folds 0 to 2"),
        ("lmf", {"seeds": 0}, "--seeds must be at least 1"),
        ("lmf", {"losses": ("lfm",)}, "--losses lfm"),
    ],
)
def test_wrong_flags_are_errors_before_any_training(workspace, plan, fair, paper, over, message):
    with pytest.raises(UserError, match=message):
        reproduce(workspace, paper, plan(**over))


def test_a_set_that_no_loss_of_the_paper_fits_is_skipped(plan, tmp_path, capsys):
    source = make_tiny(tmp_path / "other", n_patients=6)
    with pytest.raises(UserError, match="every data set is skipped"):
        reproduce(source.workspace, "lmf", plan(data=("csv",)))
    assert "csv is skipped: it is multi_label" in capsys.readouterr().out


def test_a_failed_experiment_does_not_stop_the_others(workspace, plan, recipe, fair, tmp_path, capsys):
    save_recipe(tiny_recipe(**{"model.backbone": "no_such_network"}), tmp_path / "broken.yaml")
    recipes = (str(tmp_path / "broken.yaml"), recipe)
    with pytest.raises(
        UserError, match=r"not every experiment is complete\. reproduce-lmf-quick/broken on csv"
    ):
        reproduce(workspace, "lmf", plan(data=("csv",), recipes=recipes))
    assert "| tiny | bwcce |" in capsys.readouterr().out


def test_a_set_with_some_images_is_not_skipped_without_allow_missing(plan, tmp_path):
    source = make_tiny(tmp_path / "other", task="single_label", n_patients=6)
    next(source.workspace.inputs_dir("csv").glob("pictures/00000_*.png")).unlink()
    with pytest.raises(UserError, match=r"csv: .*1 of 12 images.*--allow-missing"):
        reproduce(source.workspace, "lmf", plan(data=("csv",)))


def test_one_inputs_folder_is_for_one_data_set(workspace, plan):
    folders = Workspace(workspace.root, workspace.inputs_dir("csv"))
    with pytest.raises(UserError, match="--inputs and --images are folders of one data set"):
        reproduce(folders, "lmf", plan())
