import numpy as np
import pandas as pd
import pytest

from cxrlt.folds.balance import balance, describe


def six_rows() -> tuple[pd.DataFrame, pd.Series]:
    table = pd.DataFrame(
        {"patient": list("aabbcd"), "Mass": [1, 1, 0, np.nan, 1, 0], "Hernia": [0, 0, 0, 0, 1, 0]},
        index=pd.Index([f"i{row}" for row in range(6)], name="image_id"),
    )
    return table, pd.Series([0, 0, 0, 0, 1, 1], index=table.index)


def test_rates_are_positives_over_annotated_rows() -> None:
    table, fold = six_rows()
    figures = balance(table, ("Mass",), fold)
    mass = figures["classes"]["Mass"]
    assert mass["positives"] == [2, 1]
    assert mass["positive_patients"] == [1, 1]
    assert mass["rates"] == pytest.approx([2 / 3, 1 / 2])
    assert mass["cv"] == pytest.approx(1 / 7)
    assert (figures["sizes"], figures["n_patients"]) == ([4, 2], 4)
    assert figures["size_spread"] == pytest.approx(1 / 3)


def test_a_patient_in_two_folds_is_counted_as_a_leak() -> None:
    table, fold = six_rows()
    assert balance(table, ("Mass",), fold)["patients_in_two_folds"] == 0
    fold["i0"] = 1
    assert balance(table, ("Mass",), fold)["patients_in_two_folds"] == 1


def test_scarce_and_absent_classes_are_separate() -> None:
    table, fold = six_rows()
    table["Nodule"] = [0, 0, 0, 0, 1, 1]
    figures = balance(table, ("Mass", "Hernia", "Nodule"), fold)
    assert figures["scarce"] == ["Hernia"]
    assert figures["absent"] == ["Nodule"]


def test_a_class_without_positives_gives_finite_numbers() -> None:
    table, fold = six_rows()
    table["Mass"] = 0.0
    figures = balance(table, ("Mass",), fold)
    assert figures["label_cv_mean"] is None
    assert "fewer positive patients than folds: Mass" in describe(figures, "tiny")
