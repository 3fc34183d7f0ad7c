"""What one run of an experiment is worth: its out-of-fold figures, with the draws of the bootstrap."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.challenges.base import USUAL_METRIC, Challenge
from cxrlt.errors import UserError, listing
from cxrlt.experiments.plan import Experiment
from cxrlt.metrics import Drawn, class_means, has_both_values, metric_names
from cxrlt.predictions.scoring import N_DRAWS, draw_figures
from cxrlt.submissions.score import read_truth

OWN_LABELS = "labels"
"""What the challenge's own training labels are called among the truths."""


@dataclass(frozen=True)
class Truth:
    """Labels (index image_id, a column per class) of all rows of folds.csv, and each row's patient."""

    name: str
    labels: pd.DataFrame
    patients: pd.Series


@dataclass(frozen=True)
class RunScore:
    """`metrics` in the order of the table, the challenge's first; `classes` has a row per class.

    First of its columns is what the table's means are means of. `beside` are further numbers without draws.
    """

    metrics: dict[str, Drawn]
    classes: pd.DataFrame
    beside: Mapping[str, float] = field(default_factory=dict)


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


def score_against_truth(
    challenge: Challenge, scores: pd.DataFrame, truth: Truth, n_draws: int = N_DRAWS
) -> RunScore:
    """Score pooled out-of-fold scores against `truth`; draws over the same rows are paired."""
    labels = truth.labels.loc[scores.index].to_numpy(np.float64)
    patients = truth.patients.loc[scores.index].to_numpy(str)
    figures = draw_figures(challenge, labels, scores.to_numpy(), patients, n_draws)
    usual = USUAL_METRIC[challenge.task]  # which is also shown group by group
    columns = dict.fromkeys([challenge.metric, usual, *metric_names(challenge.task)])
    metrics = {name: figures.overall[name] for name in columns}
    metrics |= {f"{group} {usual}": draws[usual] for group, draws in figures.groups.items()}
    by_class = {name: values for name, (values, _) in figures.by_class.items()}
    classes = pd.DataFrame(by_class, index=list(challenge.classes))
    of_class = class_means(challenge.task)[usual]
    classes.insert(0, of_class, classes.pop(of_class))
    return RunScore(metrics, classes)


def _stem(path: Path, before: list[Truth]) -> str:
    if path.stem in {truth.name for truth in before}:
        raise UserError(f"--truth {path}: two truths are called {path.stem}. Rename one of the files.")
    return path.stem
