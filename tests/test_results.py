"""`cxrlt.load`, for notebooks."""

import subprocess
import sys

import pytest

import cxrlt
from cxrlt.ensembles.ensemble import make_ensemble
from cxrlt.errors import UserError
from cxrlt.submissions.evaluate import evaluate
from tiny import CLASSES, make_simulated_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return two simulated models and an ensemble."""
    runs = make_simulated_runs(tmp_path_factory.mktemp("results"), n_patients=60)
    runs.add_run("strong", 2.0, 0)
    runs.add_run("weak", 0.5, 1)
    make_ensemble(runs.challenge, runs.workspace, "mix", ("strong", "weak"), kind="mean")
    return runs


@pytest.fixture
def results(runs):
    return cxrlt.load("csv", runs.workspace.root)


def test_table_and_folds_have_the_same_rows(runs, results):
    assert list(results.folds.index) == list(results.table.index)
    assert set(results.folds) == {0, 1, 2}
    assert len(results.table) == len(runs.table("train"))


def test_a_run_has_the_scores_and_logits_of_the_commands(runs, results):
    assert list(results.runs) == ["mix", "strong", "weak"]
    run = results.runs["mix"]
    expected = evaluate(runs.challenge, runs.workspace, "mix")
    assert run.score().overall == expected.overall
    assert list(run.oof) == CLASSES
    assert list(run.oof.index) == list(results.table.index)
    assert len(run.logits("test")) == len(runs.table("test"))
    probabilities = run.probabilities("dev")
    assert ((probabilities > 0.5) == (run.logits("dev") > 0)).all(axis=None)


def test_a_precision_recall_curve_is_of_one_class(results):
    figure = results.runs["strong"].plot_pr("Hernia")
    (axes,) = [axes for axes in figure.axes if axes.get_visible()]
    assert axes.get_title().startswith("Hernia (")
    with pytest.raises(UserError, match=r"csv has no class 'Hernja': Effusion, Mass, Hernia\."):
        results.runs["strong"].plot_pr("Hernja")


def test_an_unknown_run_is_a_sentence_with_the_names(results):
    with pytest.raises(UserError, match=r"The names are: mix, strong, weak\. Did you mean 'strong'\?"):
        results.runs["strung"]


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, cxrlt; print(sorted({'torch', 'pandas', 'matplotlib'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
