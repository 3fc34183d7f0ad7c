import numpy as np
import pandas as pd
import pytest

from cxrlt.predictions.study_mean import has_studies, study_mean


def rows(*entries: tuple[str, object, object, str]) -> pd.DataFrame:
    table = pd.DataFrame(entries, columns=["image_id", "patient", "study", "view"])
    return table.set_index("image_id")


def scores(table: pd.DataFrame, values: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"Mass": values, "Hernia": -np.array(values)}, index=table.index)


def test_a_frontal_and_a_lateral_image_count_8_to_2() -> None:
    table = rows(("a", "p", "s", "frontal"), ("b", "p", "s", "lateral"))
    mean = study_mean(scores(table, [1.0, 0.0]), table)
    assert mean["Mass"].to_list() == pytest.approx([0.8, 0.8])
    assert mean["Hernia"].to_list() == pytest.approx([-0.8, -0.8])


def test_an_unknown_view_counts_between_the_two() -> None:
    table = rows(("a", "p", "s", "frontal"), ("b", "p", "s", "unknown"), ("c", "p", "s", "lateral"))
    mean = study_mean(scores(table, [0.0, 1.0, 0.0]), table)
    assert mean["Mass"].to_list() == pytest.approx([0.5 / 1.5] * 3)


def test_five_images_of_one_view_get_their_plain_mean_each() -> None:
    table = rows(*((image, "p", "s", "lateral") for image in "abcde"))
    mean = study_mean(scores(table, [1.0, 2.0, 3.0, 4.0, 5.0]), table)
    assert mean["Mass"].to_list() == pytest.approx([3.0] * 5)


def test_the_mean_excludes_other_studies_and_studies_of_the_same_name_of_other_patients() -> None:
    table = rows(("a", "p", "1", "frontal"), ("b", "p", "2", "frontal"), ("c", "q", "1", "frontal"))
    values = scores(table, [1.0, 2.0, 3.0])
    pd.testing.assert_frame_equal(study_mean(values, table), values)
    assert not has_studies(table)


def test_images_without_a_study_stay_as_they_are() -> None:
    table = rows(("c", pd.NA, "s", "frontal"), *((image, pd.NA, pd.NA, "frontal") for image in "abde"))
    values = scores(table, [1.0, 2.0, 3.0, 5.0, 8.0])
    pd.testing.assert_frame_equal(study_mean(values, table), values)


def test_studies_are_averaged_where_a_data_set_has_no_patients() -> None:
    table = rows(("a", pd.NA, "s", "frontal"), ("b", pd.NA, "s", "frontal"))
    assert has_studies(table)
    assert study_mean(scores(table, [1.0, 3.0]), table)["Mass"].to_list() == [2, 2]


def test_an_unreadable_image_gets_the_mean_of_its_study_or_nan_if_it_is_the_only_image() -> None:
    table = rows(("a", "p", "s", "frontal"), ("b", "p", "s", "lateral"), ("c", "p", "t", "frontal"))
    mean = study_mean(scores(table, [np.nan, 4.0, np.nan]), table)
    assert mean["Mass"].to_list()[:2] == [4, 4]
    assert np.isnan(mean.loc["c"]).all()


def test_views_have_the_given_weights_and_a_lateral_study_still_has_scores() -> None:
    table = rows(("a", "p", "s", "frontal"), ("b", "p", "s", "lateral"), ("c", "p", "t", "lateral"))
    values = scores(table, [1.0, 3.0, 5.0])
    assert study_mean(values, table, frontal_weight=0.5)["Mass"].to_list() == pytest.approx([2, 2, 5])
    assert study_mean(values, table, frontal_weight=1.0)["Mass"].to_list() == pytest.approx([1, 1, 5])


def test_images_of_other_folds_have_no_part_in_a_study() -> None:
    table = rows(("a", pd.NA, "s", "frontal"), ("b", pd.NA, "s", "frontal"), ("c", pd.NA, "s", "frontal"))
    mean = study_mean(scores(table, [1.0, 3.0, 9.0]), table.assign(fold=[0, 0, 1]))
    assert mean["Mass"].to_list() == [2, 2, 9]
