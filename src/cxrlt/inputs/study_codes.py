"""Which images are of one study."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def study_codes(table: pd.DataFrame) -> NDArray[np.int64]:
    """A number per row (int64, from 0 in order of appearance), the same for the images of a study.

    A study is one of a patient: names of studies may repeat between patients. A row whose study is unknown is
    a study of its own. Where `table` has a column `fold`, images of another fold are of another study.
    """
    keys = ["patient", "study", *(["fold"] if "fold" in table else [])]
    codes = table.groupby(keys, sort=False, dropna=False).ngroup().to_numpy(np.int64)
    codes = np.where(table["study"].isna(), len(table) + np.arange(len(table)), codes)
    return pd.factorize(codes)[0].astype(np.int64)
