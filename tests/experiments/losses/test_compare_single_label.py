import pandas as pd
import pytest

from cxrlt.experiments.compare import compare
from cxrlt.experiments.lists.losses import LossExperiment
from tiny import make_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("single"), task="single_label")


@pytest.mark.full
def test_losses_of_both_kinds_are_compared_by_macro_f1(single, make_losses_plan):
    text = compare(LossExperiment(single, make_losses_plan(losses=("ce", "lmf", "ldam", "ral"))))
    folder = single.workspace.submission_dir("csv", "compare-losses")
    results = pd.read_csv(folder / "results.csv")
    assert list(results["variant"]) == ["ce", "lmf", "ldam", "ral"]
    assert "| loss | macro-F1 |" in text
    classes = pd.read_csv(folder / "classes.csv")
    assert {"F1", "precision", "recall"} <= set(classes.columns)
    own = classes.query("variant == 'lmf'")
    (row,) = results.query("variant == 'lmf'").to_dict("records")
    assert row["macro-F1"] == pytest.approx(own["F1"].mean())
    assert "F1 of class" in (folder / "report.html").read_text()
