"""The score of every run of an experiment: its out-of-fold figures, with the draws of the bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.calibration.calibrate import Nested
from cxrlt.calibration.fitted import read_calibration
from cxrlt.challenges.base import USUAL_METRIC, Challenge
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError, listing
from cxrlt.experiments.differences import RunScore, Truth
from cxrlt.experiments.experiment import Experiment, Run
from cxrlt.metrics import BootstrapSamples, class_means, has_both_values, macro_metric, metric_names
from cxrlt.metrics.calibration import LOCAL_ECE, MF1, calibration_bootstrap
from cxrlt.predictions.predict import rows_to_predict
from cxrlt.predictions.scoring import N_DRAWS, draw_figures
from cxrlt.predictions.standardise import oof_scores, predicted_rows
from cxrlt.predictions.store import read_current
from cxrlt.submissions.score import read_truth

OWN_LABELS = "labels"
"""What the challenge's own training labels are called among the truths."""
GAP = "train_minus_oof"
"""How much better the metric is on rows that each fold's model was trained on."""


@dataclass(frozen=True)
class RunLogits:
    """A run's out-of-fold logits: those that rank, and those whose sigmoids are its probabilities."""

    ranking: pd.DataFrame
    probability: pd.DataFrame

    def only(self, ids: pd.Index) -> "RunLogits":
        """The same for these rows."""
        ranking = self.ranking.loc[ids]
        return RunLogits(ranking, ranking if self.probability is self.ranking else self.probability.loc[ids])


def read_truths(experiment: Experiment) -> list[Truth]:
    """The challenge's own labels, then every further truth file's, by its stem.

    Raises UserError for a truth file that lacks rows of folds.csv, and where no class has both values.
    """
    challenge, rows = experiment.challenge, experiment.split.frame.index
    table = challenge.read("train", experiment.source.workspace.inputs_dir(challenge.name)).loc[rows]
    patients = table["patient"] if table["patient"].notna().all() else pd.Series(rows, rows)
    truths = [Truth(OWN_LABELS, table[list(challenge.classes)], patients)]
    for path in experiment.plan.truth:
        labels = read_truth(path, challenge)
        missing = rows.difference(labels.index, sort=False)
        if len(missing):
            raise UserError(f"--truth {path} lacks rows that were split into folds: {listing(missing)}.")
        truths.append(Truth(_stem(path, truths), labels.loc[rows], patients))
    scored = experiment.split.frame["fold"].isin(experiment.folds)
    for truth, where in zip(truths, (f"{challenge.name} train", *experiment.plan.truth), strict=True):
        if not has_both_values(truth.labels[scored]).any():
            raise UserError(
                f"{where}: no class has both positive and negative rows in the folds "
                f"{listing(experiment.folds)}, so there is nothing to compare by. Name others with --folds."
            )
    return truths


def _stem(path: Path, before: list[Truth]) -> str:
    if path.stem in {truth.name for truth in before}:
        raise UserError(f"--truth {path}: two truths are called {path.stem}. Rename one of the files.")
    return path.stem


def read_runs(experiment: Experiment, runs: Sequence[Run]) -> tuple[dict[str, RunLogits], dict[str, str]]:
    """By the run's name, for the images that all runs predict; and why others cannot be read."""
    found: dict[str, RunLogits] = {}
    failures: dict[str, str] = {}
    for run in runs:
        try:
            found[run.name] = _read_run(experiment, run)
        except UserError as error:
            failures[run.name] = str(error)
        except Exception as error:  # a fault of ours must not cost the other variants
            failures[run.name] = f"{type(error).__name__}: {error}"
    shared: pd.Index | None = None
    for logits in found.values():
        ids = predicted_rows(logits.ranking)
        shared = ids if shared is None else shared.intersection(ids, sort=False)
    return {name: logits.only(shared) for name, logits in found.items()}, failures


def _read_run(experiment: Experiment, run: Run) -> RunLogits:
    if not experiment.as_evaluated:
        logits = read_logits(experiment, run)
        return RunLogits(logits, logits)
    scored = experiment.scored
    ranking = load_final_logits(run.name, "oof", scored).logits
    if run.variant.probabilities == "raw":
        return RunLogits(ranking, ranking)
    method = read_calibration(run.name, scored).method
    nested = Nested.read(run.name, scored).logits(method)[run.variant.probabilities]
    return RunLogits(ranking, nested.reindex(ranking.index))


def read_logits(experiment: Experiment, run: Run, split: str = "oof") -> pd.DataFrame:
    """Logits as the folds' models predict them, for the rows that the folds left out, or of "train_set"."""
    parts = []
    for fold in experiment.folds:
        path = experiment.fold_dir(run, fold) / f"{split}.parquet"
        logits, _ = read_current(path, experiment.present, experiment.command)
        if set(logits.index) != set(rows_to_predict(fold, split, experiment.present)):
            raise UserError(
                f"{path} holds rows of another fold. Make it again with: {experiment.command} --force"
            )
        parts.append(logits)
    return pd.concat(parts)


def pooled_scores(experiment: Experiment, logits: pd.DataFrame) -> pd.DataFrame:
    """The scores that are ranked; rows without a prediction are left out."""
    return oof_scores(logits, experiment.present.rows.fold, experiment.challenge.task)


def score_run(
    experiment: Experiment, run: Run, logits: RunLogits, truth: Truth, n_draws: int = N_DRAWS
) -> RunScore:
    """Score a run's logits against `truth`. The draws of all runs over the same rows are paired."""
    scores = pooled_scores(experiment, logits.ranking)
    metrics, classes = _ranking_figures(experiment.challenge, scores, truth, n_draws)
    if experiment.probabilities and experiment.challenge.task == "multi_label":
        labels, patients = _labels_and_patients(truth, logits.probability.index)
        values = logits.probability.to_numpy(np.float64)
        figures = calibration_bootstrap(labels, values, patients, n_draws)
        metrics |= {name: figures[name] for name in (MF1, LOCAL_ECE)}
    beside = {GAP: _gap(experiment, run, truth, scores)} if experiment.train_set else {}
    return RunScore(metrics, classes, beside)


def _ranking_figures(
    challenge: Challenge, scores: pd.DataFrame, truth: Truth, n_draws: int
) -> tuple[dict[str, BootstrapSamples], pd.DataFrame]:
    labels, patients = _labels_and_patients(truth, scores.index)
    figures = draw_figures(challenge, labels, scores.to_numpy(), patients, n_draws)
    usual = USUAL_METRIC[challenge.task]  # which is also shown group by group
    columns = dict.fromkeys([challenge.metric, usual, *metric_names(challenge.task)])
    metrics = {name: figures.overall[name] for name in columns}
    metrics |= {f"{group} {usual}": draws[usual] for group, draws in figures.groups.items()}
    by_class = {name: values for name, (values, _) in figures.by_class.items()}
    classes = pd.DataFrame(by_class, index=list(challenge.classes))
    of_class = class_means(challenge.task)[usual]
    classes.insert(0, of_class, classes.pop(of_class))
    return metrics, classes


def _labels_and_patients(truth: Truth, rows: pd.Index) -> tuple[np.ndarray, np.ndarray]:
    return truth.labels.loc[rows].to_numpy(np.float64), truth.patients.loc[rows].to_numpy(str)


def _gap(experiment: Experiment, run: Run, truth: Truth, left_out: pd.DataFrame) -> float:
    """The metric on rows of the train set minus that on left-out rows, over classes that both can score."""
    challenge = experiment.challenge
    trained = pooled_scores(experiment, read_logits(experiment, run, "train_set"))
    labels = [truth.labels.loc[scores.index].to_numpy(np.float64) for scores in (trained, left_out)]
    if challenge.task == "multi_label":
        shared = np.all([has_both_values(part) for part in labels], axis=0)
        labels = [np.where(shared, part, np.nan) for part in labels]
    on_trained, on_left_out = (
        macro_metric(challenge.metric, part, scores.to_numpy())
        for part, scores in zip(labels, (trained, left_out), strict=True)
    )
    return on_trained - on_left_out
