import numpy as np
import pandas as pd
import pytest

from cxrlt.predictions.standardise import comparable_logits, to_probabilities

LOGITS = pd.DataFrame({"A": [0.0, 3.0, np.nan], "B": [np.log(3), 3.0, np.nan]}, index=["x", "y", "z"])


def test_multi_label_probabilities_are_the_sigmoid_of_each_logit() -> None:
    values = to_probabilities(LOGITS.astype(np.float32), "multi_label")
    np.testing.assert_allclose(values, [[1 / 2, 3 / 4], [0.952574, 0.952574], [np.nan] * 2], rtol=1e-6)
    assert (values.dtypes == np.float64).all()
    assert comparable_logits(LOGITS, "multi_label") is LOGITS


@pytest.mark.parametrize("constant", [0, 5, -700])
def test_single_label_probabilities_sum_to_1_and_ignore_a_constant_per_row(constant: float) -> None:
    values = to_probabilities(LOGITS + constant, "single_label")
    np.testing.assert_allclose(values, [[1 / 4, 3 / 4], [1 / 2, 1 / 2], [np.nan] * 2])
    assert values.index.equals(LOGITS.index)
    np.testing.assert_allclose(comparable_logits(LOGITS + constant, "single_label"), np.log(values))
