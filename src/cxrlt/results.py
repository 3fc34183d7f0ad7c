"""The results of a challenge for notebooks: `cxrlt.load("demo")`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from cxrlt.artifacts import Workspace, expand_home
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.run_names import require_run, run_names
from cxrlt.predictions.scoring import Evaluation
from cxrlt.predictions.standardise import pool_oof_scores, to_probabilities
from cxrlt.reports.loss_figures import precision_recall_figure
from cxrlt.submissions.evaluate import evaluate


@dataclass(frozen=True)
class Run:
    """One model or ensemble. Its logits are those that are scored: averaged over folds and studies."""

    name: str
    current: CurrentData

    @cached_property
    def oof(self) -> pd.DataFrame:
        """Out-of-fold logits: index image_id, one column per class; NaN for an image without a prediction."""
        return self.logits("oof")

    def logits(self, split: str) -> pd.DataFrame:
        """Return the logits of "oof", "dev" or "test": index image_id, one column per class.

        Raises UserError with the command that predicts them if they are missing or outdated.
        """
        return load_final_logits(self.name, split, self.current).logits

    def probabilities(self, split: str = "oof") -> pd.DataFrame:
        """Return the probabilities, without calibration: index image_id, one column per class.

        Raises UserError as `logits` does.
        """
        return to_probabilities(self.logits(split), self.current.challenge.task)

    def score(self, split: str = "oof") -> Evaluation:
        """Return the score with intervals, as `cxrlt evaluate NAME --split SPLIT`.

        Raises UserError as `logits` does, and for a split without labels.
        """
        return evaluate(self.current.challenge, self.current.workspace, self.name, split)

    def plot_pr(self, class_name: str) -> Figure:
        """Plot the precision-recall curve of a class, out of fold. Raises UserError for an unknown class."""
        challenge, rows = self.current.challenge, self.current.rows
        if class_name not in challenge.classes:
            raise UserError(f"{challenge.name} has no class {class_name!r}: {', '.join(challenge.classes)}.")
        pooled = pool_oof_scores(self.oof, rows.fold, challenge.task)[[class_name]]
        return precision_recall_figure(rows.table.loc[pooled.index, [class_name]], {self.name: pooled})


class Runs(Mapping[str, Run]):
    """The models and ensembles of a challenge, by name."""

    def __init__(self, current: CurrentData) -> None:
        self._current = current

    def __getitem__(self, name: str) -> Run:
        """Return a run. Raises UserError with the known names for another name."""
        require_run(self._current.challenge, self._current.workspace, name)
        return Run(name, self._current)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, sorted."""
        return iter(run_names(self._current.challenge.name, self._current.workspace))

    def __len__(self) -> int:
        """Return the number of runs."""
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Results:
    """A challenge's training rows, folds and runs, as they are in its folder now."""

    challenge: Challenge
    workspace: Workspace

    @cached_property
    def _current(self) -> CurrentData:
        return CurrentData(self.challenge, self.workspace)

    @property
    def table(self) -> pd.DataFrame:
        """The training rows with a fold: index image_id; patient, study, view, and one column per class."""
        return self._current.rows.table

    @property
    def folds(self) -> pd.Series:
        """The fold of every training row: int, index image_id."""
        return self._current.rows.fold

    @property
    def runs(self) -> Runs:
        """The models and ensembles, by name."""
        return Runs(self._current)


def load(challenge: str, root: Path | str = ".") -> Results:
    """Return the results of a challenge below the folder `root`, which has inputs/ and folds/.

    Raises UserError for an unknown challenge. Files are read when they are used.
    """
    workspace = Workspace(expand_home(Path(root)).absolute())
    return Results(get_challenge(challenge, workspace.inputs_dir(challenge)), workspace)
