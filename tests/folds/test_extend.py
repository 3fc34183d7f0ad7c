"""Extending a split: new rows are added and deleted rows removed, and no row is moved."""

import numpy as np
import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.folds.balance import balance
from cxrlt.folds.split import split_patients

CLASSES = ("common", "rare")


def draw(n_patients: int, seed: int = 0, prefix: str = "p") -> pd.DataFrame:
    """Return a table with one to three rows per patient; 1 in 40 is positive for the rare class."""
    rng = np.random.default_rng(seed)
    patient = np.repeat([f"{prefix}{n:04}" for n in range(n_patients)], rng.integers(1, 4, n_patients))
    labels = (rng.random((len(patient), 2)) < (0.3, 0.025)).astype(np.float32)
    index = pd.Index([f"{prefix}i{n:05}" for n in range(len(patient))], name="image_id")
    return pd.DataFrame(labels, index, list(CLASSES)).assign(patient=patient)


@pytest.fixture
def first() -> tuple[pd.DataFrame, pd.Series]:
    table = draw(600)
    return table, split_patients(table, CLASSES, 5, seed=0)


def test_no_row_moves_and_no_patient_is_in_two_folds(first: tuple[pd.DataFrame, pd.Series]) -> None:
    table, fold = first
    more = pd.concat([table, draw(300, seed=1, prefix="q")])
    extended = split_patients(more, CLASSES, 5, seed=0, existing=fold)
    assert extended[table.index].equals(fold)
    assert extended.groupby(more["patient"]).nunique().max() == 1


def test_new_images_of_a_known_patient_go_to_that_patients_fold(
    first: tuple[pd.DataFrame, pd.Series],
) -> None:
    table, fold = first
    new = table[:50].set_axis(pd.Index([f"again{n}" for n in range(50)], name="image_id"))
    extended = split_patients(pd.concat([table, new]), CLASSES, 5, seed=0, existing=fold)
    assert extended[new.index].tolist() == fold[table.index[:50]].tolist()


def test_new_patients_balance_the_folds(first: tuple[pd.DataFrame, pd.Series]) -> None:
    table, fold = first
    kept = fold[fold != 2]  # as if all rows of fold 2 had been lost
    more = pd.concat([table.loc[kept.index], draw(150, seed=2, prefix="q")])
    extended = split_patients(more, CLASSES, 5, seed=0, existing=kept)
    figures = balance(more, CLASSES, extended)
    assert figures["size_spread"] < 0.05
    assert min(figures["classes"]["rare"]["positive_patients"]) > 0


def test_without_patients_rows_are_assigned_one_by_one() -> None:
    table = draw(100).assign(patient=pd.Series(pd.NA, dtype="string"))
    fold = split_patients(table, CLASSES, 4, seed=0)
    more = pd.concat([table, draw(40, seed=1, prefix="q").assign(patient=pd.NA)])
    extended = split_patients(more, CLASSES, 4, seed=0, existing=fold)
    assert extended[table.index].equals(fold)
    assert extended.value_counts().max() - extended.value_counts().min() <= 3


def test_a_patient_missing_on_some_rows_is_an_error(first: tuple[pd.DataFrame, pd.Series]) -> None:
    table, fold = first
    table = table.assign(patient=table["patient"].mask(table.index == table.index[3]))
    with pytest.raises(UserError, match=f"rows without a patient: {table.index[3]}"):
        split_patients(table, CLASSES, 5, seed=0, existing=fold)
