"""What one run of a study is worth: its out-of-fold scores, and its scores on rows it was trained on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.metrics import Drawn, bootstrap, classification_bootstrap, macro, macro_metric
from cxrlt.predictions.oof import oof_scores
from cxrlt.predictions.scoring import N_DRAWS
from cxrlt.predictions.store import read_predictions
from cxrlt.studies.plan import Run, Study
from cxrlt.studies.train import SEEN, seen_fold
from cxrlt.submissions.score import read_truth

OWN_LABELS = "labels"
"""What the challenge's own training labels are called among the truths."""
MULTI_LABEL = ("mAP", "mAUROC")
SINGLE_LABEL = ("macro-F1", "balanced-accuracy", "accuracy", "mAUROC")


@dataclass(frozen=True)
class Truth:
    """Labels (index image_id, a column per class) of all rows of folds.csv, and each row's patient."""

    name: str
    labels: pd.DataFrame
    patients: pd.Series


@dataclass(frozen=True)
class RunScore:
    """`metrics` in the order of the table, the challenge's first; `classes` has a row per class.

    `gap` is how much better the first metric is on rows that each fold's model was trained on.
    """

    metrics: dict[str, Drawn]
    classes: pd.DataFrame
    gap: float


def read_truths(study: Study) -> list[Truth]:
    """The challenge's own labels, then every further truth file's, by its stem.

    Raises UserError for a truth file that lacks rows of folds.csv.
    """
    challenge, rows = study.challenge, study.split.frame.index
    table = challenge.read("train", study.source.workspace.inputs_dir(challenge.name)).loc[rows]
    patients = table["patient"] if table["patient"].notna().all() else pd.Series(rows, rows)
    truths = [Truth(OWN_LABELS, table[list(challenge.classes)], patients)]
    for path in study.plan.truth:
        labels = read_truth(path, challenge)
        missing = rows.difference(labels.index, sort=False)
        if len(missing):
            raise UserError(f"--truth {path} lacks rows that were split into folds: {listing(missing)}.")
        truths.append(Truth(_stem(path, truths), labels.loc[rows], patients))
    return truths


def read_logits(study: Study, run: Run, *, seen: bool = False) -> pd.DataFrame:
    """Logits for all rows that the folds left out, or for `seen` ones, with one more column, fold."""
    parts = []
    for fold in study.folds:
        rows = seen_fold(fold, study.split.n_folds) if seen else fold
        path = study.fold_dir(run, fold) / (SEEN if seen else "oof.parquet")
        logits, meta = read_predictions(path, study.challenge.classes)
        if meta.get("folds_sha256") != study.split.sha256 or set(logits.index) != set(
            study.split.frame.index[study.split.frame["fold"] == rows]
        ):
            raise UserError(f"{path} belongs to another folds.csv than the one there is now: --force.")
        parts.append(logits.assign(fold=fold))
    return pd.concat(parts)


def pooled_scores(challenge: Challenge, logits: pd.DataFrame) -> pd.DataFrame:
    """The scores that are ranked, of `read_logits`; rows without a prediction are left out."""
    return oof_scores(logits.drop(columns="fold"), logits["fold"], challenge.task)


def score_run(study: Study, run: Run, truth: Truth, n_draws: int = N_DRAWS) -> RunScore:
    """Score a run's pooled out-of-fold scores against `truth`. The draws of all runs are paired."""
    challenge = study.challenge
    scores = pooled_scores(challenge, read_logits(study, run))
    labels = truth.labels.loc[scores.index].to_numpy(np.float64)
    patients = truth.patients.loc[scores.index].to_numpy(str)
    measure = _multi_label if challenge.task == "multi_label" else _single_label
    metrics, classes = measure(challenge, labels, scores.to_numpy(), patients, n_draws)
    ordered = {challenge.metric: metrics[challenge.metric]} | metrics
    return RunScore(ordered, classes, _gap(study, run, truth, scores))


def _multi_label(
    challenge: Challenge, labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, n_draws: int
) -> tuple[dict[str, Drawn], pd.DataFrame]:
    drawn = bootstrap(np.where(_both(labels), labels, np.nan), scores, patients, n_draws)
    metrics = {name: drawn.drawn(name) for name in MULTI_LABEL}
    for group, names in challenge.groups.items():
        metrics[f"{group} mAP"] = drawn.drawn("mAP", np.isin(challenge.classes, names))
    return metrics, pd.DataFrame({"AP": drawn.ap, "AUROC": drawn.auroc}, index=list(challenge.classes))


def _single_label(
    challenge: Challenge, labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, n_draws: int
) -> tuple[dict[str, Drawn], pd.DataFrame]:
    drawn = classification_bootstrap(labels, scores, patients, n_draws)
    ranked = bootstrap(np.where(_both(labels), labels, np.nan), scores, patients, n_draws)
    metrics = {name: drawn.drawn(name) for name in SINGLE_LABEL if name in drawn.values}
    metrics |= {challenge.metric: drawn.drawn(challenge.metric)} if challenge.metric in drawn.values else {}
    metrics["mAUROC"] = ranked.drawn("mAUROC")
    for group, names in challenge.groups.items():
        chosen = np.isin(challenge.classes, names)
        metrics[f"{group} F1"] = Drawn(float(macro(drawn.f1[chosen])), macro(drawn.f1_draws[:, chosen]))
    columns = {"F1": drawn.f1, "precision": drawn.precision, "recall": drawn.recall, "AUROC": ranked.auroc}
    return metrics, pd.DataFrame(columns, index=list(challenge.classes))


def _gap(study: Study, run: Run, truth: Truth, left_out: pd.DataFrame) -> float:
    """The challenge's metric on seen rows minus that on left-out rows, over classes that both can score."""
    challenge = study.challenge
    seen = pooled_scores(challenge, read_logits(study, run, seen=True))
    labels = [truth.labels.loc[scores.index].to_numpy(np.float64) for scores in (seen, left_out)]
    if challenge.task == "multi_label":
        shared = np.all([_both(part) for part in labels], axis=0)
        labels = [np.where(shared, part, np.nan) for part in labels]
    on_seen, on_left_out = (
        macro_metric(challenge.metric, part, scores.to_numpy())
        for part, scores in zip(labels, (seen, left_out), strict=True)
    )
    return on_seen - on_left_out


def _both(labels: np.ndarray) -> np.ndarray:
    """Classes (c,) with positives and negatives: others have no score."""
    return (labels == 1).any(axis=0) & (labels == 0).any(axis=0)


def _stem(path: Path, before: list[Truth]) -> str:
    if path.stem in {truth.name for truth in before}:
        raise UserError(f"--truth {path}: two truths are called {path.stem}. Rename one of the files.")
    return path.stem
