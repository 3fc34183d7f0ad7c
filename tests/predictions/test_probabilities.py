import numpy as np
import pandas as pd
import pytest

from cxrlt.predictions.standardise import comparable_logits, probabilities

LOGITS = pd.DataFrame({"A": [0.0, 3.0, np.nan], "B": [np.log(3), 3.0, np.nan]}, index=["x", "y", "z"])


def test_classes_that_exclude_nothing_have_the_sigmoid_of_each_logit() -> None:
    values = probabilities(LOGITS.astype(np.float32), "multi_label")
    np.testing.assert_allclose(values, [[1 / 2, 3 / 4], [0.952574, 0.952574], [np.nan] * 2], rtol=1e-6)
    assert (values.dtypes == np.float64).all()
    assert comparable_logits(LOGITS, "multi_label") is LOGITS


@pytest.mark.parametrize("constant", [0, 5, -700])
def test_classes_that_exclude_each_other_share_1_whatever_is_added_to_a_row(constant: float) -> None:
    values = probabilities(LOGITS + constant, "single_label")
    np.testing.assert_allclose(values, [[1 / 4, 3 / 4], [1 / 2, 1 / 2], [np.nan] * 2])
    assert values.index.equals(LOGITS.index)
    np.testing.assert_allclose(comparable_logits(LOGITS + constant, "single_label"), np.log(values))
