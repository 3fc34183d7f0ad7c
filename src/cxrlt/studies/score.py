"""What one run of a study is worth: its out-of-fold scores, and its scores on rows it was trained on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.challenges.base import RANKING_METRICS, Challenge, Task
from cxrlt.errors import UserError, listing
from cxrlt.metrics import Drawn, macro_metric
from cxrlt.predictions.measures import CLASS_MEANS, draw_figures, has_both_values
from cxrlt.predictions.oof import oof_scores
from cxrlt.predictions.scoring import N_DRAWS
from cxrlt.predictions.store import read_predictions
from cxrlt.studies.plan import Run, Study
from cxrlt.studies.train import SEEN, seen_fold
from cxrlt.submissions.score import read_truth

OWN_LABELS = "labels"
"""What the challenge's own training labels are called among the truths."""
METRICS: dict[Task, tuple[str, ...]] = {
    "multi_label": RANKING_METRICS,
    "single_label": ("macro-F1", "balanced-accuracy", "accuracy", "mAUROC"),
}
"""The columns of the table beside the challenge's own metric; the first is also shown group by group."""


@dataclass(frozen=True)
class Truth:
    """Labels (index image_id, a column per class) of all rows of folds.csv, and each row's patient."""

    name: str
    labels: pd.DataFrame
    patients: pd.Series


@dataclass(frozen=True)
class RunScore:
    """`metrics` in the order of the table, the challenge's first; `classes` has a row per class.

    First of its columns is what the table's means are means of. `gap` is how much better the first metric is
    on rows that each fold's model was trained on.
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
    figures = draw_figures(challenge, labels, scores.to_numpy(), patients, n_draws)
    columns = METRICS[challenge.task]
    metrics = {name: figures.overall[name] for name in dict.fromkeys([challenge.metric, *columns])}
    metrics |= {f"{group} {columns[0]}": draws[columns[0]] for group, draws in figures.groups.items()}
    by_class = {name: values for name, (values, _) in figures.by_class.items()}
    classes = pd.DataFrame(by_class, index=list(challenge.classes))
    classes.insert(0, CLASS_MEANS[columns[0]], classes.pop(CLASS_MEANS[columns[0]]))
    return RunScore(metrics, classes, _gap(study, run, truth, scores))


def _gap(study: Study, run: Run, truth: Truth, left_out: pd.DataFrame) -> float:
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


def _stem(path: Path, before: list[Truth]) -> str:
    if path.stem in {truth.name for truth in before}:
        raise UserError(f"--truth {path}: two truths are called {path.stem}. Rename one of the files.")
    return path.stem
