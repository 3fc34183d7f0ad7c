"""Probabilities that a trick maps to others, each row by what was fitted without its fold."""

import pandas as pd

from cxrlt.calibration import Variant
from cxrlt.calibration.calibrate import Nested
from cxrlt.calibration.fitted import read_calibration
from cxrlt.errors import UserError
from cxrlt.experiments.plan import Run
from cxrlt.experiments.tricks.plan import TrickExperiment
from cxrlt.experiments.tricks.registry import BASE, TRICKS


def variant_of(run: Run) -> Variant:
    return "raw" if run.variant == BASE else TRICKS[run.variant].probabilities


def is_mapped(experiment: TrickExperiment, run: Run) -> bool:
    """Whether the run has what maps its probabilities, made of what there is now; true if it needs none."""
    if variant_of(run) == "raw":
        return True
    try:
        read_calibration(run.name, experiment.scored)
    except UserError:
        return False
    return True


def mapped_logits(experiment: TrickExperiment, run: Run, logits: pd.DataFrame) -> pd.DataFrame:
    """The logits whose sigmoids are the run's probabilities. Raises UserError if they were not fitted."""
    if variant_of(run) == "raw":
        return logits
    method = read_calibration(run.name, experiment.scored).method
    nested = Nested.read(run.name, experiment.scored)
    return nested.logits(method)[variant_of(run)].reindex(logits.index)
