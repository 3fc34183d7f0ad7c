"""Out-of-fold scores of an experiment's runs, with their bootstrap draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.calibration.artifact import read_calibration
from cxrlt.calibration.calibrate import NestedLogits
from cxrlt.challenges.base import DEFAULT_METRIC, Challenge
from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError, listing
from cxrlt.experiments.differences import RunScore, Truth
from cxrlt.experiments.experiment import Experiment, Run
from cxrlt.metrics import BootstrapSamples, class_means, has_both_values, macro_metric, metric_names
from cxrlt.metrics.calibration import LOCAL_ECE, MF1, calibration_bootstrap
from cxrlt.predictions.predict import rows_to_predict
from cxrlt.predictions.scoring import N_DRAWS, bootstrap_metrics
from cxrlt.predictions.standardise import pool_oof_scores, predicted_ids
from cxrlt.predictions.store import read_current
from cxrlt.submissions.score import read_truth

CHALLENGE_LABELS = "labels"
"""Name of the truth that holds the challenge's own training labels."""
TRAIN_OOF_GAP = "train_minus_oof"
"""Column: the metric on rows of the training set minus the metric on out-of-fold rows."""


@dataclass(frozen=True)
class RunLogits:
    """Out-of-fold logits of a run (index image_id, one column per class): for ranking and for probabilities.

    They differ if the run is calibrated: the sigmoid of `probability` is the calibrated probability.
    """

    ranking: pd.DataFrame
    probability: pd.DataFrame

    def select(self, ids: pd.Index) -> "RunLogits":
        """Return the logits of the rows `ids`."""
        ranking = self.ranking.loc[ids]
        return RunLogits(ranking, ranking if self.probability is self.ranking else self.probability.loc[ids])


def read_truths(experiment: Experiment) -> list[Truth]:
    """Return the challenge's own labels and those of every --truth file, named by the file's stem.

    Raises UserError if a file lacks rows of folds.csv, if two files have the same stem, or if no class has
    both positives and negatives.
    """
    challenge, rows = experiment.challenge, experiment.fold_assignment.frame.index
    table = challenge.read("train", experiment.source.workspace.inputs_dir(challenge.name)).loc[rows]
    patients = table["patient"] if table["patient"].notna().all() else pd.Series(rows, rows)
    truths = [Truth(CHALLENGE_LABELS, table[list(challenge.classes)], patients)]
    for path in experiment.plan.truth:
        labels = read_truth(path, challenge)
        missing = rows.difference(labels.index, sort=False)
        if len(missing):
            raise UserError(f"--truth {path} lacks rows of folds.csv: {listing(missing)}.")
        truths.append(Truth(_truth_name(path, truths), labels.loc[rows], patients))
    scored = experiment.fold_assignment.frame["fold"].isin(experiment.folds)
    for truth, where in zip(truths, (f"{challenge.name} train", *experiment.plan.truth), strict=True):
        if not has_both_values(truth.labels[scored]).any():
            raise UserError(
                f"{where}: no class has both positive and negative rows in the folds "
                f"{listing(experiment.folds)}, so no metric is defined. Choose other --folds."
            )
    return truths


def _truth_name(path: Path, truths: list[Truth]) -> str:
    if path.stem in {truth.name for truth in truths}:
        raise UserError(f"--truth {path}: two truths have the name {path.stem}. Rename one of the files.")
    return path.stem


def read_runs(experiment: Experiment, runs: Sequence[Run]) -> tuple[dict[str, RunLogits], dict[str, str]]:
    """Return {run: logits} for the images that all runs predict, and {failed run: reason}."""
    logits_by_run: dict[str, RunLogits] = {}
    failures: dict[str, str] = {}
    for run in runs:
        try:
            logits_by_run[run.name] = _read_run(experiment, run)
        except UserError as error:
            failures[run.name] = str(error)
        except Exception as error:  # a bug in one variant must not stop the others
            failures[run.name] = f"{type(error).__name__}: {error}"
    if not logits_by_run:
        return {}, failures
    common, *others = (predicted_ids(logits.ranking) for logits in logits_by_run.values())
    for ids in others:
        common = common.intersection(ids, sort=False)
    return {name: logits.select(common) for name, logits in logits_by_run.items()}, failures


def _read_run(experiment: Experiment, run: Run) -> RunLogits:
    if not experiment.uses_final_logits:
        logits = read_logits(experiment, run)
        return RunLogits(logits, logits)
    scored = experiment.scored_data
    ranking = load_final_logits(run.name, "oof", scored).logits
    if run.variant.probabilities == "raw":
        return RunLogits(ranking, ranking)
    method = read_calibration(run.name, scored).method
    calibrated = NestedLogits.read(run.name, scored).logits(method)[run.variant.probabilities]
    return RunLogits(ranking, calibrated.reindex(ranking.index))


def read_logits(experiment: Experiment, run: Run, split: str = "oof") -> pd.DataFrame:
    """Return the raw logits of the fold models (index image_id, one column per class).

    `split`: "oof" or "train_set". Raises UserError if a file holds other rows than those of its fold.
    """
    parts = []
    for fold in experiment.folds:
        path = experiment.fold_dir(run, fold) / f"{split}.parquet"
        logits, _ = read_current(path, experiment.current_data, experiment.command)
        if set(logits.index) != set(rows_to_predict(fold, split, experiment.current_data)):
            raise UserError(f"{path} holds rows of another fold. Renew it with: {experiment.command} --force")
        parts.append(logits)
    return pd.concat(parts)


def pooled_scores(experiment: Experiment, logits: pd.DataFrame) -> pd.DataFrame:
    """Return the scores for ranking metrics (index image_id, one column per class) of all predicted rows."""
    return pool_oof_scores(logits, experiment.current_data.rows.fold, experiment.challenge.task)


def score_run(
    experiment: Experiment, run: Run, logits: RunLogits, truth: Truth, n_draws: int = N_DRAWS
) -> RunScore:
    """Score a run's logits against `truth`. Runs with the same rows have paired bootstrap draws."""
    scores = pooled_scores(experiment, logits.ranking)
    metrics, classes, class_draws = _ranking_metrics(experiment.challenge, scores, truth, n_draws)
    if experiment.scores_probabilities and experiment.challenge.task == "multi_label":
        labels, patients = _labels_and_patients(truth, logits.probability.index)
        values = logits.probability.to_numpy(np.float64)
        samples = calibration_bootstrap(labels, values, patients, n_draws)
        metrics |= {name: samples[name] for name in (MF1, LOCAL_ECE)}
    extra_values = (
        {TRAIN_OOF_GAP: _train_oof_gap(experiment, run, truth, scores)}
        if experiment.predicts_train_set
        else {}
    )
    return RunScore(metrics, classes, extra_values, class_draws)


def _ranking_metrics(
    challenge: Challenge, scores: pd.DataFrame, truth: Truth, n_draws: int
) -> tuple[dict[str, BootstrapSamples], pd.DataFrame, np.ndarray]:
    labels, patients = _labels_and_patients(truth, scores.index)
    samples = bootstrap_metrics(challenge, labels, scores.to_numpy(), patients, n_draws)
    default_metric = DEFAULT_METRIC[challenge.task]  # also shown by head, medium and tail
    columns = dict.fromkeys([challenge.metric, default_metric, *metric_names(challenge.task)])
    metrics = {name: samples.overall[name] for name in columns}
    metrics |= {f"{group} {default_metric}": draws[default_metric] for group, draws in samples.groups.items()}
    by_class = {name: values for name, (values, _) in samples.by_class.items()}
    classes = pd.DataFrame(by_class, index=list(challenge.classes))
    class_metric = class_means(challenge.task)[default_metric]
    classes.insert(0, class_metric, classes.pop(class_metric))
    return metrics, classes, samples.by_class[class_metric][1]


def _labels_and_patients(truth: Truth, rows: pd.Index) -> tuple[np.ndarray, np.ndarray]:
    return truth.labels.loc[rows].to_numpy(np.float64), truth.patients.loc[rows].to_numpy(str)


def _train_oof_gap(experiment: Experiment, run: Run, truth: Truth, oof: pd.DataFrame) -> float:
    """Return the metric on training rows minus that on out-of-fold rows, over classes defined in both."""
    challenge = experiment.challenge
    train = pooled_scores(experiment, read_logits(experiment, run, "train_set"))
    labels = [truth.labels.loc[scores.index].to_numpy(np.float64) for scores in (train, oof)]
    if challenge.task == "multi_label":
        common = np.all([has_both_values(part) for part in labels], axis=0)
        labels = [np.where(common, part, np.nan) for part in labels]
    on_train, on_oof = (
        macro_metric(challenge.metric, part, scores.to_numpy())
        for part, scores in zip(labels, (train, oof), strict=True)
    )
    return on_train - on_oof
