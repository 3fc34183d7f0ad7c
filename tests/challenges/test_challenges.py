from dataclasses import replace

import pytest

from cxrlt.challenges import challenge_names, get_challenge
from cxrlt.errors import UserError
from user_errors import raises_user_error

FROM_INPUTS = ("aptos2019", "csv", "cxrlt2026-task1", "folder")
IN_COLOUR = ("ham10000", "isic2018", "isic2019", "odir5k", "odir5k-patient")
FIXED = [name for name in challenge_names() if name not in FROM_INPUTS]


def test_every_fixed_name_gives_the_challenge_of_that_name():
    cxr_lt = ["cxrlt2023", "cxrlt2024-task1", "cxrlt2024-task2"]
    grey = ["covid-radiography", *cxr_lt, "demo", "demo-single", "nih14", "nihlt", "nihlt-single"]
    assert sorted([*grey, *IN_COLOUR]) == FIXED
    assert [get_challenge(name).name for name in FIXED] == FIXED


def test_an_unknown_name_lists_the_known_and_offers_the_nearest():
    with raises_user_error("cxrlt-2023", "'cxrlt2023'", "demo", "nihlt-single"):
        get_challenge("cxrlt-2023")


@pytest.mark.parametrize("name", FROM_INPUTS)
def test_a_challenge_defined_by_its_inputs_needs_their_folder(name):
    with raises_user_error(name, "--inputs"):
        get_challenge(name)


@pytest.mark.parametrize("name", FIXED)
def test_only_skin_and_fundus_are_in_colour_and_a_missing_split_is_named(name, tmp_path):
    challenge = get_challenge(name)
    assert challenge.channels == (3 if name in IN_COLOUR else 1)
    with pytest.raises(UserError, match=f"{name} has no split 'oof': it has train"):
        challenge.read("oof", tmp_path)
    with pytest.raises(UserError, match=f"{name} has no split 'oof'"):
        challenge.template("oof", tmp_path)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("demo", (9, 11, 6)),
        ("demo-single", (5, 9, 12)),
        ("cxrlt2023", (9, 11, 6)),
        ("cxrlt2024-task1", (9, 15, 16)),
        ("cxrlt2024-task2", (9, 11, 6)),
    ],
)
def test_groups_follow_from_the_official_counts(name, sizes):
    groups = get_challenge(name).groups
    assert tuple(len(groups[group]) for group in ("head", "medium", "tail")) == sizes
    assert "Support Devices" in groups["head"]
    assert "Pneumoperitoneum" in groups["tail"]


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        (("Mass", "No_Finding"), "No_Finding"),
        (("no finding", "Mass"), "no finding"),
        (("Mass", "NoFinding"), "NoFinding"),
        (("Mass", "no-finding "), "no-finding "),
        (("NORMAL", "PNEUMONIA"), "NORMAL"),
        (("Mass", "Normal"), "Normal"),
        (("normal", "Mass", "No Finding"), "No Finding"),
        (("NORMAL", "no_finding"), "NORMAL"),
        (("Normal", "No Finding"), "Normal"),
        (("Abnormal", "Finding", "Normal variant"), None),
    ],
)
def test_the_class_of_no_finding_is_known_however_it_is_spelt_its_usual_spelling_first(classes, found):
    demo = get_challenge("demo")
    assert replace(demo, train_counts=dict.fromkeys(classes, 1)).no_finding == found
