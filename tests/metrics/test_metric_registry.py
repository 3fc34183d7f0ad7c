"""A metric is registered where it is defined, and nowhere else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cxrlt import cli
from cxrlt.metrics import METRICS, class_means, metric, metric_names
from tiny import make_simulated_runs

ROOT = Path(__file__).parents[2]
MINE = """
import numpy as np

from cxrlt.metrics import metric
from cxrlt.metrics.classification import recall
from cxrlt.metrics.ranking import AUROC


@metric("mGini", kind="ranking", of_class="Gini", bounds=(-1.0, 1.0))
class Gini(AUROC):
    @staticmethod
    def value(found, ordered):
        return 2 * AUROC.value(found, ordered) - 1

    @staticmethod
    def draws(total, tied, n_positives, n_negatives):
        return 2 * AUROC.draws(total, tied, n_positives, n_negatives) - 1


@metric("worst-recall", kind="decisions")
def worst_recall(counts):
    return np.nanmin(recall(counts), axis=-1)


@metric("positive rate", kind="probabilities", lower_is_better=True)
class PositiveRate:
    n_sums = 2

    @staticmethod
    def add(positive, logit):
        return [(0, logit >= 0), (1, 1.0)]

    @staticmethod
    def from_sums(sums):
        return sums[0] / sums[1]
"""


@pytest.fixture
def mine(add_module):
    """A metric of every kind in a module of its own."""
    add_module("my_metrics", MINE, METRICS)


def runs_judged_by(metric, task, root):
    """Two runs, the second one better, of a challenge whose file names the metric."""
    runs = make_simulated_runs(root, 60, task=task)
    spec = runs.workspace.inputs_dir("csv") / "challenge.yaml"
    spec.write_text(f"{spec.read_text()}metric: {metric}\n")
    for name, skill in (("poor", 0.5), ("good", 2.0)):
        runs.add_run(name, skill, seed=1)


def said(capsys, root, *words):
    cli.main([*words, "--challenge", "csv", "--root", str(root)])
    return capsys.readouterr().out


def test_a_ranking_metric_of_another_module_is_reported_and_used_for_selection(mine, tmp_path, capsys):
    runs_judged_by("mGini", "multi_label", tmp_path)
    text = said(capsys, tmp_path, "evaluate", "good")
    (heading,) = re.findall(r"^classes .*$", text, re.M)
    assert heading.split() == ["classes", "n", "mAP", "mAUROC", "mGini"]
    auroc, gini = (float(value) for value in re.findall(r"^all .*$", text, re.M)[0].split()[5::3])
    assert gini == pytest.approx(2 * auroc - 1, abs=2e-4)
    assert re.search(r"^medium .*$", text, re.M)
    board = said(capsys, tmp_path, "evaluate")
    assert "oof mGini" in board
    assert board.index("good") < board.index("poor")
    said(capsys, tmp_path, "ensemble", "both", "--members", "poor", "good", "--kind", "greedy")
    assert "mGini" in said(capsys, tmp_path, "evaluate", "both")


def test_a_decision_metric_of_another_module_is_reported_and_used_for_selection(mine, tmp_path, capsys):
    runs_judged_by("worst-recall", "single_label", tmp_path)
    assert re.search(r"^worst-recall +0\.\d+ \[", said(capsys, tmp_path, "evaluate", "good"), re.M)
    assert "oof worst-recall" in said(capsys, tmp_path, "evaluate")
    said(capsys, tmp_path, "ensemble", "both", "--members", "poor", "good", "--kind", "greedy")


def test_a_metric_of_probabilities_of_another_module_is_shown_by_calibrate(mine, tmp_path, capsys):
    runs_judged_by("mAP", "multi_label", tmp_path)
    assert "positive rate" in said(capsys, tmp_path, "calibrate", "good")


def test_a_repeated_name_and_a_selection_metric_that_is_better_when_lower_are_refused():
    with pytest.raises(ValueError, match="two metrics have the name 'mAP'"):
        metric("mAP", kind="ranking")(len)
    with pytest.raises(ValueError, match="better when higher"):
        metric("error", kind="decisions", lower_is_better=True)(len)
    assert "error" not in METRICS


def test_names_are_listed_by_task():
    assert metric_names("multi_label") == ["mAP", "mAUROC"]
    decisions = ["macro-F1", "accuracy", "balanced-accuracy", "weighted-F1", "kappa"]
    assert metric_names("single_label") == [*decisions, "mAP", "mAUROC"]
    assert class_means("single_label") == {"macro-F1": "F1", "mAP": "AP", "mAUROC": "AUROC"}


def test_the_documentation_lists_every_metric_and_what_it_is_the_mean_of():
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\S*) ?\| (how each|the class|prob)", page, re.M)
    starts = {"ranking": "how each", "decisions": "the class", "probabilities": "prob"}
    listed = [(name, entry.of_class or "", starts[entry.kind]) for name, entry in METRICS.items()]
    assert sorted(rows) == sorted(listed)
    guide = (ROOT / "docs" / "challenges.md").read_text(encoding="utf-8")
    assert all(name in guide for name in metric_names("single_label"))


def test_metrics_need_nothing_else_of_the_package():
    code = (
        "import sys, cxrlt.metrics; "
        "ours = [m for m in sys.modules if m.startswith('cxrlt.') and not m.startswith('cxrlt.metrics')]; "
        "sys.exit(str(ours) if ours or 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
