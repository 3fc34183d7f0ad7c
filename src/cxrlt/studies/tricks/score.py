"""What tricks are worth: what is evaluated and submitted of each run, on the images that all predict."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from cxrlt.errors import UserError
from cxrlt.metrics import Drawn
from cxrlt.metrics.calibration import LOCAL_ECE, MF1, calibration_bootstrap
from cxrlt.predictions.oof import oof_scores, predicted_rows
from cxrlt.predictions.runs import read_final
from cxrlt.predictions.scoring import N_DRAWS
from cxrlt.studies.plan import Run
from cxrlt.studies.score import RunScore, Truth, score_rows
from cxrlt.studies.tricks.plan import TrickStudy


def read_logits(study: TrickStudy, runs: Sequence[Run]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Final out-of-fold logits by the run's name, for the images that all of them predict; what failed."""
    frames: dict[str, pd.DataFrame] = {}
    failures: dict[str, str] = {}
    for run in runs:
        try:
            final = read_final(study.challenge, study.source.workspace, run.name, "oof", study.rows)
            frames[run.name] = final.logits
        except UserError as error:
            failures[run.name] = str(error)
    shared = study.rows.table.index
    for frame in frames.values():
        shared = shared.intersection(predicted_rows(frame), sort=False)
    return {name: frame.loc[shared] for name, frame in frames.items()}, failures


def score_run(
    study: TrickStudy, run: Run, logits: pd.DataFrame, truth: Truth, n_draws: int = N_DRAWS
) -> RunScore:
    """Figures of the order of a run's pooled scores, and of its probabilities as they are."""
    scores = oof_scores(logits, study.rows.fold, study.challenge.task)
    score = score_rows(study.challenge, scores, truth, n_draws)
    return replace(score, metrics=score.metrics | _probability_figures(study, run, logits, truth, n_draws))


def _probability_figures(
    study: TrickStudy, run: Run, logits: pd.DataFrame, truth: Truth, n_draws: int
) -> Mapping[str, Drawn]:
    if study.challenge.task == "single_label":
        return {}
    labels = truth.labels.loc[logits.index].to_numpy(np.float64)
    patients = truth.patients.loc[logits.index].to_numpy(str)
    figures = calibration_bootstrap(labels, logits.to_numpy(np.float64), patients, n_draws)
    return {name: figures[name] for name in (MF1, LOCAL_ECE)}
