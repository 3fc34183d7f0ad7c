"""What one run is worth: its out-of-fold scores, and its scores on rows it was trained on."""

from dataclasses import replace

import numpy as np
import pandas as pd

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.metrics import has_both_values, macro_metric
from cxrlt.predictions.fold_files import read_current
from cxrlt.predictions.oof import oof_scores
from cxrlt.predictions.scoring import N_DRAWS
from cxrlt.studies.losses.plan import LossStudy
from cxrlt.studies.losses.seen import SEEN, seen_fold
from cxrlt.studies.plan import Run
from cxrlt.studies.score import RunScore, Truth, score_against_truth

GAP = "train_minus_oof"
"""How much better the metric is on rows that each fold's model was trained on."""


def read_logits(study: LossStudy, run: Run, *, seen: bool = False) -> pd.DataFrame:
    """Logits for all rows that the folds left out, or for `seen` ones, with one more column, fold."""
    parts = []
    for fold in study.folds:
        rows = seen_fold(fold, study.split.n_folds) if seen else fold
        path = study.fold_dir(run, fold) / (SEEN if seen else "oof.parquet")
        made_by = f"cxrlt study {study.kind} {study.challenge.name}"
        logits, _ = read_current(path, study.present, made_by)
        if set(logits.index) != set(study.split.frame.index[study.split.frame["fold"] == rows]):
            raise UserError(f"{path} holds rows of another fold. Make it again with: {made_by} --force")
        parts.append(logits.assign(fold=fold))
    return pd.concat(parts)


def pooled_scores(challenge: Challenge, logits: pd.DataFrame) -> pd.DataFrame:
    """The scores that are ranked, of `read_logits`; rows without a prediction are left out."""
    return oof_scores(logits.drop(columns="fold"), logits["fold"], challenge.task)


def score_run(study: LossStudy, run: Run, truth: Truth, n_draws: int = N_DRAWS) -> RunScore:
    """Score a run's pooled out-of-fold scores against `truth`. The draws of all runs are paired."""
    scores = pooled_scores(study.challenge, read_logits(study, run))
    score = score_against_truth(study.challenge, scores, truth, n_draws)
    return replace(score, beside={GAP: _gap(study, run, truth, scores)})


def _gap(study: LossStudy, run: Run, truth: Truth, left_out: pd.DataFrame) -> float:
    """The challenge's metric on seen rows minus that on left-out rows, over classes that both can score."""
    challenge = study.challenge
    seen = pooled_scores(challenge, read_logits(study, run, seen=True))
    labels = [truth.labels.loc[scores.index].to_numpy(np.float64) for scores in (seen, left_out)]
    if challenge.task == "multi_label":
        shared = np.all([has_both_values(part) for part in labels], axis=0)
        labels = [np.where(shared, part, np.nan) for part in labels]
    on_seen, on_left_out = (
        macro_metric(challenge.metric, part, scores.to_numpy())
        for part, scores in zip(labels, (seen, left_out), strict=True)
    )
    return on_seen - on_left_out
