import numpy as np
import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.folds.balance import balance
from cxrlt.folds.split import split_patients

CLASSES = ("Effusion", "Mass", "Hernia")


def test_no_patient_is_in_two_folds(table: pd.DataFrame) -> None:
    fold = split_patients(table, CLASSES, n_folds=5, seed=0)
    assert (fold.groupby(table["patient"]).nunique() == 1).all()
    assert fold.index.equals(table.index)
    assert set(fold) == set(range(5))


def test_every_label_keeps_its_share_in_every_fold(table: pd.DataFrame) -> None:
    figures = balance(table, CLASSES, split_patients(table, CLASSES, n_folds=3, seed=0))
    assert figures["classes"]["Effusion"]["cv"] < 0.01
    assert figures["classes"]["Mass"]["cv"] < 0.05
    assert figures["size_spread"] < 0.01
    patients = figures["classes"]["Hernia"]["positive_patients"]
    assert max(patients) - min(patients) <= 2


def test_folds_do_not_depend_on_the_order_of_the_rows(table: pd.DataFrame) -> None:
    fold = split_patients(table, CLASSES, n_folds=4, seed=3)
    shuffled = split_patients(table.sample(frac=1, random_state=1), CLASSES, n_folds=4, seed=3)
    pd.testing.assert_series_equal(shuffled.loc[fold.index], fold)
    assert not split_patients(table, CLASSES, n_folds=4, seed=4).equals(fold)


def test_labels_that_are_not_annotated_count_as_no_positive(table: pd.DataFrame) -> None:
    blank = table.copy()
    blank.loc[table["Mass"] == 0, "Mass"] = np.nan
    assert split_patients(blank, CLASSES, 5, 0).equals(split_patients(table, CLASSES, 5, 0))


def test_a_class_with_fewer_positive_patients_than_folds_is_split_all_the_same(table: pd.DataFrame) -> None:
    scarce = table.copy()
    scarce["Hernia"] = np.float32(0)
    scarce.loc[scarce.index[:1], "Hernia"] = 1
    figures = balance(scarce, CLASSES, split_patients(scarce, CLASSES, 5, 0))
    assert figures["scarce"] == ["Hernia"]
    assert figures["absent"] == []


def test_a_rare_class_is_stratified_by_patients_too() -> None:
    n_images = {"p0": 4, "p1": 1, "p2": 1, "p3": 1, "p4": 1}
    rows = [(patient, 1) for patient, n in n_images.items() for _ in range(n)]
    rows += [(f"healthy{n}", 0) for n in range(200)]  # so that all folds can be of one size
    table = pd.DataFrame(rows, columns=["patient", "Hernia"]).rename(index="i{:03d}".format)
    figures = balance(table, ("Hernia",), split_patients(table, ("Hernia",), n_folds=2, seed=0))
    assert sorted(figures["classes"]["Hernia"]["positive_patients"]) == [2, 3]
    assert sorted(figures["classes"]["Hernia"]["positives"]) == [3, 5]
    assert figures["sizes"] == [104, 104]


def test_rows_without_patients_are_stratified_one_by_one(table: pd.DataFrame) -> None:
    rows = table.assign(patient=pd.NA)
    fold = split_patients(rows, CLASSES, n_folds=5, seed=0)
    figures = balance(rows, CLASSES, fold)
    assert figures["label_cv_mean"] < 0.05
    assert (fold.groupby(table["patient"]).nunique() > 1).any()
    assert fold.equals(split_patients(rows, CLASSES, n_folds=5, seed=0))


def test_a_patient_missing_on_some_rows_is_an_error_naming_them(table: pd.DataFrame) -> None:
    table.loc["i000003", "patient"] = pd.NA
    with pytest.raises(UserError, match="i000003"):
        split_patients(table, CLASSES, n_folds=5, seed=0)


@pytest.mark.parametrize("n_folds", [0, 1, 301])
def test_too_few_folds_or_more_than_patients_is_an_error(table: pd.DataFrame, n_folds: int) -> None:
    with pytest.raises(UserError, match="between 2 and the number of patients, 300"):
        split_patients(table, CLASSES, n_folds, seed=0)


def test_the_only_positive_patient_is_assigned_first() -> None:
    """The share 1 of Hernia is larger than 2/3 of Mass, so patient c comes first and gets fold 0."""
    rows = [("a", 1, 0), ("a", 1, 0), ("b", 1, 0), ("c", 0, 1), ("d", 0, 0), ("e", 0, 0)]
    table = pd.DataFrame(rows, columns=["patient", "Mass", "Hernia"])
    fold = split_patients(table, ("Mass", "Hernia"), n_folds=2, seed=0)
    assert fold[table["patient"] == "c"].tolist() == [0]
    assert fold[table["patient"] == "a"].tolist() == [1, 1]
