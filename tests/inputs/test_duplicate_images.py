import pandas as pd
import pytest

from cxrlt.inputs.duplicate_images import DuplicateImages, find_duplicate_images, merge_duplicate_patients


def table(**patients: str | None) -> pd.DataFrame:
    """Return a table with a column patient; the keywords are image ids."""
    index = pd.Index(list(patients), name="image_id")
    return pd.DataFrame({"patient": pd.array(list(patients.values()), "string")}, index)


def hashes(**of_image: str | None) -> pd.Series:
    return pd.Series(of_image, dtype=object).rename_axis("image_id")


TRAIN = table(a="p1", b="p2", c="p2", d="p3", e="p4")
HASHES = hashes(a="x", b="y", c="x", d="x", e="z")


def test_an_image_of_several_patients_gives_a_pair_per_other_patient():
    found = find_duplicate_images({"train": HASHES}, {"train": TRAIN})
    assert found == DuplicateImages((("a", "c"), ("a", "d")), {})


def test_duplicate_images_of_one_patient_are_ignored():
    found = find_duplicate_images({"train": hashes(a="x", b="x")}, {"train": table(a="p", b="p")})
    assert found.warnings("csv") == [] and found.patients == ()


def test_without_patients_every_image_is_a_patient():
    found = find_duplicate_images({"train": HASHES}, {"train": table(**dict.fromkeys("abcde"))})
    assert found.patients == (("a", "c"), ("a", "d"))


def test_duplicates_in_two_splits_are_found_also_for_one_patient():
    known = {"train": HASHES, "dev": hashes(f="y", g="new", h="y"), "test": hashes(i="new", j=None)}
    tables = {"train": TRAIN, "dev": table(f="p2", g="p8", h="p9"), "test": table(i="p8", j="p7")}
    assert find_duplicate_images(known, tables).splits == {
        ("train", "dev"): (("b", "f"), ("b", "h")),
        ("train", "test"): (),
        ("dev", "test"): (("g", "i"),),
    }


def test_unknown_hashes_are_not_duplicates():
    unknown = {"train": hashes(a=None, b=None), "dev": hashes(c=None)}
    found = find_duplicate_images(unknown, {"train": table(a="p1", b="p2"), "dev": table(c="p3")})
    assert found.warnings("csv") == []


def test_warnings_give_count_ten_names_and_the_fix():
    many = {f"i{k:02}": f"p{k:02}" for k in range(13)}
    known = {"train": hashes(**dict.fromkeys(many, "x")), "test": hashes(t="x")}
    within, across = find_duplicate_images(known, {"train": table(**many), "test": table(t="q")}).warnings(
        "csv"
    )
    assert (
        "12 training images are identical, byte for byte, to an image of another patient: i00 = i01, "
        in within
    )
    assert "i00 = i10 … (12 in all)" in within and "i11" not in within
    assert within.endswith("cxrlt folds csv --group-duplicates")
    assert "1 images of test are identical, byte for byte, to an image of train: i00 = t." in across
    assert across.endswith("Scores on test are too high.")


def test_patients_who_share_an_image_are_merged_also_transitively():
    shared = hashes(a="x", b="x", c="y", d="y", e="z")
    grouped = merge_duplicate_patients(table(e="p1", a="p4", b="p2", c="p2", d="p3"), shared)
    assert grouped.to_dict() == {"e": "p1", "a": "p2", "b": "p2", "c": "p2", "d": "p2"}
    assert list(grouped.index) == ["e", "a", "b", "c", "d"]


@pytest.mark.parametrize("known", [hashes(), hashes(a=None, b="x"), hashes(a="x", b="y", stranger="x")])
def test_patients_without_shared_images_do_not_change(known: pd.Series):
    assert merge_duplicate_patients(table(a="p1", b="p2"), known).to_dict() == {"a": "p1", "b": "p2"}


def test_without_patients_identical_images_are_merged():
    grouped = merge_duplicate_patients(table(**dict.fromkeys("dcba")), hashes(a="x", b="y", c="x", d="z"))
    assert grouped.to_dict() == {"d": "d", "c": "a", "b": "b", "a": "a"}


def test_a_patient_that_only_some_rows_lack_stays_unknown():
    grouped = merge_duplicate_patients(table(a="p1", b=None, c="p2"), hashes(a="x", b="x", c="x"))
    assert grouped.isna().tolist() == [False, True, False] and grouped["c"] == "p1"
