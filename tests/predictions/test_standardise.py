from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrlt.predictions.standardise import (
    fit_constants,
    mean_constants,
    read_constants,
    standardise_by_fold,
    write_constants,
)
from cxrlt.system.atomic_files import write_json
from user_errors import raises_user_error


def frame(values: object, names: str = "AB") -> pd.DataFrame:
    return pd.DataFrame(values, columns=list(names), dtype=np.float64)


def test_standardised_logits_have_median_0_and_interquartile_range_1() -> None:
    logits = frame(np.random.default_rng(0).normal([3, -5], [0.1, 40], size=(500, 2)))
    scores = fit_constants(logits).apply(logits)
    assert scores.median().abs().max() < 1e-12
    assert (scores.quantile(0.75) - scores.quantile(0.25)).to_numpy() == pytest.approx([1, 1])


def test_inverting_gives_the_logits_back() -> None:
    logits = frame(np.random.default_rng(0).normal(size=(50, 2)) * 7 + 3)
    constants = fit_constants(logits)
    pd.testing.assert_frame_equal(constants.invert(constants.apply(logits)), logits)


def test_a_class_without_interquartile_range_is_scaled_by_its_deviation_and_a_constant_one_by_1() -> None:
    logits = frame({"A": [0, 0, 0, 0, 0, 0, 0, 0, 8], "B": [2.0] * 9})
    constants = fit_constants(logits)
    assert constants.iqr.to_list() == pytest.approx([logits["A"].std(ddof=0), 1])
    assert (constants.apply(logits)["B"] == 0).all()


def test_rows_without_a_prediction_take_no_part_and_stay_without() -> None:
    logits = frame([[1, 1], [2, 2], [3, 3], [np.nan, np.nan]])
    constants = fit_constants(logits)
    assert constants.median.to_list() == [2, 2]
    assert constants.apply(logits).iloc[3].isna().all()


def test_folds_on_different_scales_are_made_comparable_without_labels() -> None:
    scores = frame(np.random.default_rng(0).normal(size=(300, 2)))
    fold = pd.Series(np.arange(300) % 3)
    drifted = scores.mul(1 + 4 * fold, axis=0).add(10 * fold, axis=0)
    pd.testing.assert_frame_equal(standardise_by_fold(drifted, fold), standardise_by_fold(scores, fold))


def test_constants_are_read_back_by_class_name(tmp_path: Path) -> None:
    logits = frame(np.random.default_rng(0).normal(size=(9, 2)))
    write_constants(tmp_path, logits, "multi_label", {"weights": "f"})
    back, provenance = read_constants(tmp_path, ("B", "A"), "cxrlt predict")
    assert provenance == {"weights": "f"}
    pd.testing.assert_series_equal(back.median, fit_constants(logits).median[["B", "A"]], check_names=False)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"median": {"A": 0}, "iqr": {"A": 1}},
        {"median": {"A": 0, "B": 0}, "iqr": {"A": 1, "B": 0}},
        {"median": {"A": 0, "B": float("nan")}, "iqr": {"A": 1, "B": 1}},
    ],
)
def test_constants_that_lack_a_class_or_a_usable_number_are_refused_with_the_command(
    tmp_path: Path, values: dict
) -> None:
    write_json(tmp_path / "constants.json", values | {"provenance": {}})
    with raises_user_error("constants.json", "cxrlt predict model --force"):
        read_constants(tmp_path, "AB", "cxrlt predict model")


def test_a_class_without_any_prediction_is_on_the_scale_of_logits() -> None:
    constants = fit_constants(frame({"A": [np.nan, np.nan], "B": [1.0, 3.0]}))
    assert (constants.median["A"], constants.iqr["A"]) == (0, 1)


def test_mean_constants_weigh_all_folds_equally() -> None:
    parts = [fit_constants(frame([[m, 0], [m + w, 0]])) for m, w in ((0, 2), (10, 6))]
    mean = mean_constants(parts)
    assert (mean.median["A"], mean.iqr["A"]) == (pytest.approx(7), pytest.approx(2))
