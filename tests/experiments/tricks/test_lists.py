import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.experiments import lists
from cxrlt.experiments.compare import compare
from cxrlt.experiments.lists import experiment_names, load_experiment_class

PAPER = """
from cxrlt.experiments.experiment import Experiment
from cxrlt.experiments.variants import ExperimentVariant, with_fields


class PaperExperiment(Experiment):
    kind = "paper"

    @property
    def variants(self):
        heavy, zooms = {"optim": {"weight_decay": 0.2}}, {"predict": {"tta": {"scales": (0.9,)}}}
        return (
            ExperimentVariant("usual"),
            ExperimentVariant("heavy", "more weight decay", recipe=with_fields(heavy)),
            ExperimentVariant("zooms", "two zooms", "prediction", with_fields(zooms)),
        )


EXPERIMENT = PaperExperiment
"""


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """Return an experiment class from a new file in lists/."""
    (tmp_path / "paper.py").write_text(PAPER)
    monkeypatch.setattr(lists, "__path__", [*lists.__path__, str(tmp_path)])
    return load_experiment_class("paper")


def test_every_file_of_the_folder_is_a_list(paper):
    assert experiment_names() == ("ladder", "losses", "paper", "transfer", "tricks")


@pytest.mark.slow
def test_one_file_makes_a_whole_experiment(source, paper, make_tricks_plan, capsys):
    text = compare(paper(source, make_tricks_plan(seeds=1, folds=(1,))))
    assert capsys.readouterr().out.startswith(
        "compare-paper on csv: heavy, zooms\n1 seeds, 1 folds: 2 trainings"
    )
    folder = source.workspace.submission_dir("csv", "compare-paper")
    rows = pd.read_csv(folder / "results.csv")
    assert list(rows["variant"]) == ["usual", "heavy", "zooms"]
    assert "| zooms | 0." in text
    assert "two zooms" in (folder / "report.html").read_text()


def test_flags_of_another_list_are_refused(source, paper, make_tricks_plan):
    with pytest.raises(UserError, match=r"--losses is a flag of cxrlt compare losses only"):
        paper(source, make_tricks_plan(losses=("bce",), rates=(1.0,)))
    with pytest.raises(UserError, match=r"--tricks is a flag of cxrlt compare tricks only"):
        paper(source, make_tricks_plan("flip"))
    with pytest.raises(UserError, match=r"--rates is a flag of cxrlt compare losses and transfer only"):
        paper(source, make_tricks_plan(rates=(1.0,)))
