from pathlib import Path

import pytest
from broken_tables import OK, cases

from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from fuzz.oracle import equal_or_both_nan, parse_table
from layouts import LAYOUTS, TableLayout

pytestmark = pytest.mark.slow

MAX_MESSAGE_CHARS = 3000
SAME_COLUMNS = ("demo", "cxrlt2024-task2", "nihlt-single")
"""Challenges with the same columns as another one."""


def read_train(layout: TableLayout, inputs: Path) -> tuple[Challenge, object]:
    challenge = get_challenge(layout.challenge, inputs)
    return challenge, challenge.read("train", inputs)


def outcome(layout: TableLayout, inputs: Path) -> str | None:
    """Return the error message, or OK if the table is read as the csv module of Python reads it."""
    try:
        _, table = read_train(layout, inputs)
    except UserError as error:
        assert len(str(error)) < MAX_MESSAGE_CHARS
        assert str(error).isprintable()
        return str(error)
    expected = parse_table(inputs / layout.file, layout)
    assert set(table.index) == set(expected)
    for image, (patient, path, labels) in expected.items():
        row = table.loc[image]
        assert patient in (None, row["patient"])
        assert row["path"] == path
        assert all(equal_or_both_nan(row[name], value) for name, value in labels.items())
    return OK


def relist(layout: TableLayout, inputs: Path) -> None:
    """The official list of a challenge that has one, with the images of the table as it is now."""
    if (listed := inputs / "train_val_list.txt").is_file():
        listed.write_text("".join(f"{image}\n" for image in parse_table(inputs / layout.file, layout)))


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(each, id=name, marks=[pytest.mark.full] * (name in SAME_COLUMNS))
        for name, each in LAYOUTS.items()
    ],
)
def test_every_table_is_read_as_it_is_or_refused_in_a_sentence(layout, tmp_path):
    path = layout.write(tmp_path)
    wrong = []
    for case in cases(layout):
        path.write_bytes(case.content)
        if case.sentence is OK:
            relist(layout, tmp_path)
        message = outcome(layout, tmp_path)
        if (message is OK) != (case.sentence is OK) or (case.sentence or "") not in (message or ""):
            wrong.append(f"{case.name}: {message}, not {case.sentence}")
    assert not wrong, "\n".join(wrong)
