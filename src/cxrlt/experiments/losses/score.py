"""What one run is worth: its out-of-fold scores, and its scores on rows it was trained on."""

from dataclasses import replace

import numpy as np
import pandas as pd

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.experiments.losses.plan import LossExperiment
from cxrlt.experiments.losses.train_set_predictions import SEEN, seen_fold
from cxrlt.experiments.plan import Run
from cxrlt.experiments.score import RunScore, Truth, score_against_truth
from cxrlt.metrics import has_both_values, macro_metric
from cxrlt.predictions.scoring import N_DRAWS
from cxrlt.predictions.standardise import oof_scores
from cxrlt.predictions.store import read_current

GAP = "train_minus_oof"
"""How much better the metric is on rows that each fold's model was trained on."""


def read_logits(experiment: LossExperiment, run: Run, *, seen: bool = False) -> pd.DataFrame:
    """Logits for all rows that the folds left out, or for `seen` ones, with one more column, fold."""
    parts = []
    for fold in experiment.folds:
        rows = seen_fold(fold, experiment.split.n_folds) if seen else fold
        path = experiment.fold_dir(run, fold) / (SEEN if seen else "oof.parquet")
        made_by = f"cxrlt compare {experiment.kind} {experiment.challenge.name}"
        logits, _ = read_current(path, experiment.present, made_by)
        if set(logits.index) != set(experiment.split.frame.index[experiment.split.frame["fold"] == rows]):
            raise UserError(f"{path} holds rows of another fold. Make it again with: {made_by} --force")
        parts.append(logits.assign(fold=fold))
    return pd.concat(parts)


def pooled_scores(challenge: Challenge, logits: pd.DataFrame) -> pd.DataFrame:
    """The scores that are ranked, of `read_logits`; rows without a prediction are left out."""
    return oof_scores(logits.drop(columns="fold"), logits["fold"], challenge.task)


def score_run(experiment: LossExperiment, run: Run, truth: Truth, n_draws: int = N_DRAWS) -> RunScore:
    """Score a run's pooled out-of-fold scores against `truth`. The draws of all runs are paired."""
    scores = pooled_scores(experiment.challenge, read_logits(experiment, run))
    score = score_against_truth(experiment.challenge, scores, truth, n_draws)
    return replace(score, beside={GAP: _gap(experiment, run, truth, scores)})


def _gap(experiment: LossExperiment, run: Run, truth: Truth, left_out: pd.DataFrame) -> float:
    """The challenge's metric on seen rows minus that on left-out rows, over classes that both can score."""
    challenge = experiment.challenge
    seen = pooled_scores(challenge, read_logits(experiment, run, seen=True))
    labels = [truth.labels.loc[scores.index].to_numpy(np.float64) for scores in (seen, left_out)]
    if challenge.task == "multi_label":
        shared = np.all([has_both_values(part) for part in labels], axis=0)
        labels = [np.where(shared, part, np.nan) for part in labels]
    on_seen, on_left_out = (
        macro_metric(challenge.metric, part, scores.to_numpy())
        for part, scores in zip(labels, (seen, left_out), strict=True)
    )
    return on_seen - on_left_out
