import numpy as np
import pandas as pd
import pytest

from cxrlt.ensembles.context import CONTEXT_FEATURES, compute_context


def rows(*entries: tuple[object, object, str]) -> pd.DataFrame:
    ids = [str(number) for number in range(len(entries))]
    return pd.DataFrame(entries, columns=["patient", "study", "view"], index=ids)


def context(table: pd.DataFrame, *scores: list[float]) -> pd.DataFrame:
    """The context of the first class, one row per image."""
    return pd.DataFrame(
        compute_context(np.array(scores), table).for_class(0),
        index=table.index,
        columns=list(CONTEXT_FEATURES),
    )


TABLE = rows(
    ("p", "1", "frontal"),
    ("p", "1", "lateral"),
    ("p", "2", "unknown"),
    ("p", "3", "frontal"),
    ("q", "1", "frontal"),
)


def test_other_images_are_those_of_the_same_study_and_other_studies_those_of_the_same_patient() -> None:
    found = context(TABLE, [1.0, 2.0, 4.0, 8.0, 16.0])
    assert found["other_images"].tolist() == [2, 1, 0, 0, 0]
    assert found["no_other_images"].tolist() == [0, 0, 1, 1, 1]
    assert found["other_studies"].tolist() == pytest.approx([6, 6, 11 / 3, 7 / 3, 0])
    assert found["no_other_studies"].tolist() == [0, 0, 0, 0, 1]


def test_context_has_views_and_image_counts() -> None:
    found = context(TABLE, [0.0] * 5)
    assert found["lateral"].tolist() == [0, 1, 0, 0, 0]
    assert found["unknown_view"].tolist() == [0, 0, 1, 0, 0]
    assert np.exp(found["log_images_of_study"]).tolist() == pytest.approx([2, 2, 1, 1, 1])
    assert np.exp(found["log_images_of_patient"]).tolist() == pytest.approx([4, 4, 4, 4, 1])


def test_every_class_has_its_own_means_of_scores() -> None:
    both = compute_context(np.array([[1.0, 2.0], [5.0, 7.0]]), TABLE[:2])
    place = CONTEXT_FEATURES.index("other_images")
    assert both.for_class(0)[:, place].tolist() == [2, 1]
    assert both.for_class(1)[:, place].tolist() == [7, 5]


def test_an_unknown_patient_has_no_other_studies_and_an_unknown_study_no_other_images() -> None:
    table = rows(
        (pd.NA, "1", "frontal"),
        (pd.NA, "1", "lateral"),
        (pd.NA, pd.NA, "frontal"),
        ("p", pd.NA, "frontal"),
        ("p", pd.NA, "frontal"),
    )
    found = context(table, [1.0, 2.0, 4.0, 8.0, 16.0])
    assert found["other_images"].tolist() == [2, 1, 0, 0, 0]
    assert found["other_studies"].tolist() == [0, 0, 0, 16, 8]
    assert np.exp(found["log_images_of_patient"]).tolist() == pytest.approx([2, 2, 1, 2, 2])


def test_an_image_without_a_prediction_does_not_change_the_context_of_others() -> None:
    found = context(TABLE, [1.0, np.nan, 4.0, np.nan, 16.0])
    assert found["other_images"].tolist() == [0, 1, 0, 0, 0]
    assert found["no_other_images"].tolist() == [1, 0, 1, 1, 1]
    assert found["other_studies"].tolist() == [4, 4, 1, 2.5, 0]
    assert np.isfinite(found).all(axis=None)


def test_images_of_other_folds_take_no_part() -> None:
    found = context(TABLE.assign(fold=[0, 0, 1, 1, 0]), [1.0, 2.0, 4.0, 8.0, 16.0])
    assert found["other_studies"].tolist() == [0, 0, 8, 4, 0]
