"""The rows that judge a soup: some of the patients a fold may train on, which it then does not train on."""

from fractions import Fraction

import pandas as pd

from cxrlt.folds.split import split_patients
from cxrlt.training.setup import seed_of

MOST_PARTS = 20  # more and smaller ones spread labels less evenly


def inner_rows(rows: pd.DataFrame, classes: tuple[str, ...], share: float, seed: int, fold: str) -> pd.Index:
    """Ids of about `share` of the patients of `rows`, which are those that `fold` does not leave out.

    Patients stay whole and labels are spread as over folds. A label with too few patients for every part
    stays with the rows that are trained on.
    """
    n_units = rows["patient"].nunique() or len(rows)
    most = min(MOST_PARTS, n_units)
    taken = max(Fraction(share).limit_denominator(most), Fraction(1, most))
    part = split_patients(rows, classes, taken.denominator, seed_of("inner", seed, fold) % 2**32)
    return rows.index[part >= taken.denominator - taken.numerator]  # the first parts get what is rarest
