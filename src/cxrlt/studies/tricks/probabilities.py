"""Probabilities that a trick maps to others, each row by what was fitted without its fold."""

import pandas as pd

from cxrlt.errors import UserError
from cxrlt.predictions.calibrate import Nested
from cxrlt.predictions.calibration import read_calibration
from cxrlt.predictions.choices import Variant
from cxrlt.studies.plan import Run
from cxrlt.studies.tricks.plan import TrickStudy
from cxrlt.studies.tricks.registry import BASE, TRICKS


def variant_of(run: Run) -> Variant:
    return "raw" if run.variant == BASE else TRICKS[run.variant].probabilities


def is_mapped(study: TrickStudy, run: Run) -> bool:
    """Whether the run has what maps its probabilities, made of what there is now; true if it needs none."""
    if variant_of(run) == "raw":
        return True
    try:
        read_calibration(run.name, study.scored)
    except UserError:
        return False
    return True


def mapped_logits(study: TrickStudy, run: Run, logits: pd.DataFrame) -> pd.DataFrame:
    """The logits whose sigmoids are the run's probabilities. Raises UserError if they were not fitted."""
    if variant_of(run) == "raw":
        return logits
    method = read_calibration(run.name, study.scored).method
    nested = Nested.read(run.name, study.scored)
    return nested.logits(method)[variant_of(run)].reindex(logits.index)
