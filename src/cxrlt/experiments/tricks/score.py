"""What tricks are worth: what is evaluated and submitted of each run, on the images that all predict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError
from cxrlt.experiments.plan import Run
from cxrlt.experiments.score import RunScore, Truth, score_against_truth
from cxrlt.experiments.tricks.plan import TrickExperiment
from cxrlt.experiments.tricks.probabilities import mapped_logits
from cxrlt.metrics import Drawn
from cxrlt.metrics.calibration import LOCAL_ECE, MF1, calibration_bootstrap
from cxrlt.predictions.scoring import N_DRAWS
from cxrlt.predictions.standardise import oof_scores, predicted_rows


@dataclass(frozen=True)
class Predicted:
    """A run's final out-of-fold logits: those that rank, and those whose sigmoids are its probabilities."""

    ranking: pd.DataFrame
    meant: pd.DataFrame

    def only(self, ids: pd.Index) -> "Predicted":
        """The same for these rows."""
        ranking = self.ranking.loc[ids]
        return Predicted(ranking, ranking if self.meant is self.ranking else self.meant.loc[ids])


def read_predicted(
    experiment: TrickExperiment, runs: Sequence[Run]
) -> tuple[dict[str, Predicted], dict[str, str]]:
    """By the run's name, for the images that all runs predict; and why others cannot be read."""
    frames: dict[str, Predicted] = {}
    failures: dict[str, str] = {}
    for run in runs:
        try:
            final = load_final_logits(run.name, "oof", experiment.scored)
            frames[run.name] = Predicted(final.logits, mapped_logits(experiment, run, final.logits))
        except UserError as error:
            failures[run.name] = str(error)
        except Exception as error:  # a fault of ours must not cost the other rows
            failures[run.name] = f"{type(error).__name__}: {error}"
    shared = experiment.rows.table.index
    for frame in frames.values():
        shared = shared.intersection(predicted_rows(frame.ranking), sort=False)
    return {name: frame.only(shared) for name, frame in frames.items()}, failures


def score_run(
    experiment: TrickExperiment, predicted: Predicted, truth: Truth, n_draws: int = N_DRAWS
) -> RunScore:
    """Figures of the order of a run's pooled scores, and of its probabilities as they are."""
    scores = oof_scores(predicted.ranking, experiment.rows.fold, experiment.challenge.task)
    score = score_against_truth(experiment.challenge, scores, truth, n_draws)
    return replace(score, metrics=score.metrics | _probability_figures(experiment, predicted, truth, n_draws))


def _probability_figures(
    experiment: TrickExperiment, predicted: Predicted, truth: Truth, n_draws: int
) -> Mapping[str, Drawn]:
    if experiment.challenge.task == "single_label":
        return {}
    rows = predicted.meant.index
    labels = truth.labels.loc[rows].to_numpy(np.float64)
    patients = truth.patients.loc[rows].to_numpy(str)
    figures = calibration_bootstrap(labels, predicted.meant.to_numpy(np.float64), patients, n_draws)
    return {name: figures[name] for name in (MF1, LOCAL_ECE)}
