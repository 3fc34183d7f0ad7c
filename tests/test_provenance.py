"""Provenance compares values; bytes and orders of rows or columns do not count."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrlt.provenance import (
    PARTS,
    describe_differences,
    digest,
    find_differences,
    is_current,
    provenance_of,
    select_parts,
)
from cxrlt.recipe import Recipe, fields_affecting, override_recipe

LABELS = pd.DataFrame({"Mass": [1, 0, np.nan], "Nodule": [0, 1, 1]}, index=["b", "a", "c"], dtype=np.float32)


def test_the_order_of_rows_and_columns_makes_no_difference() -> None:
    again = LABELS.loc[["c", "b", "a"], ["Nodule", "Mass"]]
    assert provenance_of(labels=again) == provenance_of(labels=LABELS)
    assert digest(again) == digest(LABELS)
    assert digest(LABELS["Mass"].iloc[::-1]) == digest(LABELS["Mass"])


def test_a_difference_is_named_by_its_part_and_column() -> None:
    other = LABELS.copy()
    other.loc["a", "Mass"] = 1
    before, now = provenance_of(labels=LABELS, weights="one"), provenance_of(labels=other, weights="two")
    assert find_differences(before, now) == {"weights": [], "labels": ["Mass"]}
    assert describe_differences(find_differences(before, now)) == "other weights and other labels (Mass)"


def test_a_missing_value_differs_from_0_and_from_a_missing_row() -> None:
    for value in (0, 1):
        assert digest(LABELS["Mass"].fillna(value)) != digest(LABELS["Mass"])
    assert digest(LABELS["Mass"].dropna()) != digest(LABELS["Mass"])


def test_values_that_move_to_another_row_are_a_difference() -> None:
    moved = LABELS["Nodule"].set_axis(["a", "b", "c"])
    assert digest(moved) != digest(LABELS["Nodule"])


@given(st.lists(st.one_of(st.none(), st.text()), min_size=2, max_size=4))
def test_lists_of_texts_with_the_same_characters_have_different_digests(texts: list[str | None]) -> None:
    index = [f"i{place}" for place in range(len(texts))]
    whole = digest(pd.Series(texts, index, dtype=object))
    joined = [(texts[0] or "") + (texts[1] or ""), "", *texts[2:]]
    if joined != texts:
        assert digest(pd.Series(joined, index, dtype=object)) != whole
    assert digest(pd.Series(texts, index, dtype="string")) == whole


def test_a_part_that_is_not_known_is_not_compared_and_one_that_was_not_kept_differs() -> None:
    both, weights = provenance_of(labels=LABELS, weights="w"), provenance_of(weights="w")
    assert is_current(both, weights)
    assert find_differences(weights, both) == {"labels": ["Mass", "Nodule"]}
    assert provenance_of(labels=None) == {}


def test_parts_can_be_picked_with_their_details() -> None:
    everything = provenance_of(labels=LABELS, recipe={"optim.lr": 0.1})
    assert select_parts(["recipe"], everything) == provenance_of(recipe={"optim.lr": 0.1})
    assert set(select_parts(["labels"], everything)) == {"labels", "labels.Mass", "labels.Nodule"}


def test_every_part_has_words() -> None:
    assert all(PARTS[part] in describe_differences({part: []}) for part in PARTS)


@pytest.mark.parametrize(
    ("field", "value", "effect"),
    [
        ("optim.lr", 0.5, "weights"),
        ("model.backbone", "resnet10t", "weights"),
        ("predict.weights", "best", "weights"),
        ("predict.tta.merge", "geometric", "logits"),
        ("predict.study_mean", "on", "scores"),
        ("predict.gate", 0.5, "scores"),
        ("data.n_workers", 3, "nothing"),
        ("checkpoint_minutes", 1.0, "nothing"),
        ("optim.max_batch_per_device", 4, "nothing"),
    ],
)
def test_a_recipe_field_declares_what_it_changes(field: str, value: object, effect: str) -> None:
    over: dict = {}
    *sections, name = field.split(".")
    part = over
    for section in sections:
        part = part.setdefault(section, {})
    part[name] = value
    recipe = override_recipe(Recipe(), over)
    for each in ("weights", "logits", "scores", "nothing"):
        assert fields_affecting(recipe, each) == ({field: value} if each == effect else {})


def test_a_field_at_its_default_is_not_in_the_provenance() -> None:
    assert fields_affecting(Recipe(), "weights", "logits", "scores", "nothing") == {}
