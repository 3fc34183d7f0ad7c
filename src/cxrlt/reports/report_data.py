"""What a run report shows: scores, costs and recipes of runs, decisions of the best one, and their files."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace, read_json
from cxrlt.calibration import Variant
from cxrlt.calibration.artifact import CALIBRATION, read_calibration
from cxrlt.calibration.calibrate import NestedLogits
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.final_logits import load_final_logits, load_oof_scores
from cxrlt.ensembles.weights import EnsembleWeights, read_weights
from cxrlt.errors import UserError
from cxrlt.metrics import macro_metric
from cxrlt.predictions.current_data import CurrentData
from cxrlt.predictions.run_names import is_ensemble, require_run
from cxrlt.predictions.scoring import Evaluation
from cxrlt.predictions.standardise import pool_oof_scores, predicted_ids
from cxrlt.predictions.study_mean import study_mean
from cxrlt.predictions.trained_folds import fold_dirs, read_fold_recipe
from cxrlt.recipe import Recipe
from cxrlt.reports.status import read_states
from cxrlt.submissions.evaluate import Leaderboard, evaluate, leaderboard
from cxrlt.training.record import RunRecord, read_run_record
from cxrlt.training.run_paths import LOG, RUN, fold_from_dir
from cxrlt.training.run_state import FoldState
from cxrlt.training.timing import TIMING_FILE


@dataclass(frozen=True)
class ReportData:
    """Everything that the report of `names` (default: all runs and ensembles outside experiments) needs."""

    challenge: Challenge
    workspace: Workspace
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.names:
            require_run(self.challenge, self.workspace, name)

    @cached_property
    def current(self) -> CurrentData:
        """Tables, folds and pixels."""
        return CurrentData(self.challenge, self.workspace)

    @cached_property
    def board(self) -> Leaderboard:
        """The leaderboard of out-of-fold scores."""
        return leaderboard(self.challenge, self.workspace, names=self.names)

    @cached_property
    def best(self) -> Evaluation:
        """The best ensemble, or the best model if there is no ensemble."""
        ensembles = [each for each in self.board.evaluations if self.is_ensemble(each.name)]
        return (ensembles or self.board.evaluations)[0]

    @property
    def metric(self) -> str:
        """The metric of the challenge."""
        return self.challenge.metric

    @property
    def models(self) -> list[str]:
        """The scored models, best first."""
        return [each.name for each in self.board.evaluations if not self.is_ensemble(each.name)]

    def run_dir(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.workspace.run_dir(self.challenge.name, name)

    def is_ensemble(self, name: str) -> bool:
        """Return whether a name is that of an ensemble."""
        return is_ensemble(self.run_dir(name))

    def weights(self, name: str) -> EnsembleWeights:
        """Return the weights of an ensemble."""
        return read_weights(self.run_dir(name), self.challenge)

    def recipe(self, name: str) -> Recipe:
        """Return the recipe of a model."""
        return read_fold_recipe(fold_dirs(self.run_dir(name))[0], self.challenge.name)

    def records(self, name: str) -> list[RunRecord]:
        """Return run.json of every fold of a model."""
        folders = [folder for folder in fold_dirs(self.run_dir(name)) if (folder / RUN).is_file()]
        return [read_run_record(folder, self.challenge.name) for folder in folders]

    def logs(self, name: str) -> dict[str, pd.DataFrame]:
        """Return log.csv by fold: one row per epoch."""
        folders = [folder for folder in fold_dirs(self.run_dir(name)) if (folder / LOG).is_file()]
        return {f"fold {fold_from_dir(folder)}": pd.read_csv(folder / LOG) for folder in folders}

    def hours(self, name: str) -> float:
        """Return the hours of training of all folds, of the members of an ensemble; NaN if not recorded."""
        if self.is_ensemble(name):
            return sum(self.hours(member) for member in self.weights(name).members)
        paths = [folder / TIMING_FILE for folder in fold_dirs(self.run_dir(name))]
        if not paths or not all(path.is_file() for path in paths):
            return float("nan")
        return sum(read_json(path, "cxrlt train")["seconds"] for path in paths) / 3600

    def images_per_s(self, name: str) -> float:
        """Return the median speed of a model's training; NaN for an ensemble."""
        speeds = [speed for log in self.logs(name).values() for speed in log.get("images_per_s", [])]
        return float(median(speeds)) if speeds else float("nan")

    @cached_property
    def states(self) -> list[FoldState]:
        """The state of every fold of the runs in this report."""
        shown = {*self.names} or {each.name for each in self.board.evaluations} | {*self.board.skipped}
        return [
            state for state in read_states(self.challenge, self.workspace, self.current) if state.run in shown
        ]

    @cached_property
    def labelled_scores(self) -> dict[str, Evaluation]:
        """The score of the best on dev and test, where they have labels and predictions."""
        found = {}
        for split in self.challenge.splits:
            if split != "train":
                try:
                    found[split] = evaluate(self.challenge, self.workspace, self.best.name, split)
                except UserError:  # not predicted, or without labels
                    continue
        return found

    @cached_property
    def labels(self) -> pd.DataFrame:
        """Labels of the training rows in folds (index image_id, one column per class)."""
        return self.current.rows.table[list(self.challenge.classes)]

    @cached_property
    def logits(self) -> pd.DataFrame:
        """Out-of-fold logits of the best (index image_id, one column per class), without NaN."""
        logits = load_final_logits(self.best.name, "oof", self.current).logits
        return logits.loc[predicted_ids(logits)]

    @property
    def is_calibrated(self) -> bool:
        """Whether the best has a calibration."""
        return (self.run_dir(self.best.name) / CALIBRATION).is_file()

    @cached_property
    def nested(self) -> Mapping[Variant, pd.DataFrame]:
        """Nested logits of the best by variant: raw, calibrated, f1; empty without a calibration.

        Each has the index image_id and one column per class. Every row is calibrated by maps that were fitted
        without its fold.
        """
        if not self.is_calibrated:
            return {}
        try:
            method = read_calibration(self.best.name, self.current).method
            return NestedLogits.read(self.best.name, self.current).logits(method)
        except UserError:  # outdated
            return {}

    def member_scores(self) -> dict[str, pd.DataFrame]:
        """Return the out-of-fold scores of the members of the best ensemble, with its mean over studies.

        Each has the index image_id and one column per class.
        """
        weights, table = self.weights(self.best.name), self.current.rows.table
        frames = {member: load_oof_scores(member, self.current).frame for member in weights.members}
        return {name: study_mean(frame, table, weights.study_mean.final) for name, frame in frames.items()}

    def leave_one_out(self, scores: Mapping[str, pd.DataFrame]) -> dict[str, float]:
        """Return what the best ensemble loses in the challenge's metric without each member.

        `scores` (index image_id, one column per class) are those of `member_scores`. The other weights are
        scaled to a sum of 1 and not fitted again.
        NaN for a stack, whose weights are not shares, and for the only member of a class.
        """
        final = self.weights(self.best.name).final
        if final.bias is not None:
            return dict.fromkeys(scores, float("nan"))
        whole = self._weighted_score(scores, final.weights)
        losses = {}
        for member in scores:
            others = final.weights.drop(columns=member)
            sums = others.sum(axis=1)
            is_possible = bool(len(others.columns)) and (sums > 0).all()
            scaled = others.div(sums, axis=0) if is_possible else others
            losses[member] = whole - self._weighted_score(scores, scaled) if is_possible else float("nan")
        return losses

    def _weighted_score(self, scores: Mapping[str, pd.DataFrame], weights: pd.DataFrame) -> float:
        parts = [scores[str(member)] * weights[member] for member in weights]
        total = reduce(pd.DataFrame.add, parts)
        pooled = pool_oof_scores(total, self.current.rows.fold, self.challenge.task)
        labels = self.labels.loc[pooled.index].to_numpy(np.float64)
        return macro_metric(self.challenge.metric, labels, pooled.to_numpy())


def correlate(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return Spearman's correlation of scores, averaged over the classes: (n_members, n_members).

    `scores`: index image_id, one column per class.
    """
    ranks = {name: frame.rank() for name, frame in scores.items()}
    names = list(ranks)
    values = [[float(ranks[a].corrwith(ranks[b]).mean()) for b in names] for a in names]
    return pd.DataFrame(values, names, names)
