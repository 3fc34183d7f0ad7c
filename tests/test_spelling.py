import pytest

from cxrlt.spelling import nearest, other_spellings, plain


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A.PNG", "a.png", True),
        ("p1\\a", "p1/a", True),
        ("./p1//a", "p1/a", True),
        ("Jos\u00e9", "Jose\u0301", True),
        ("STRASSE", "stra\u00dfe", True),
        ("p1a", "p1/a", False),
        ("a_1", "a-1", False),
        ("001", "1", False),
        ("jos\u00e9", "jose", False),
    ],
)
def test_names_are_the_same_apart_from_case_slashes_and_the_form_of_unicode(one, other, same):
    assert (plain(one) == plain(other)) is same


def test_ids_that_differ_only_in_spelling_are_told_with_an_example_and_their_number():
    hint = other_spellings(["A.png", "x.png", "B.png"], ["a.png", "b.png", "c.png"])
    assert hint.startswith(" 2 of them differ only in spelling")
    assert "'A.png' here, 'a.png' there" in hint


def test_ids_that_differ_otherwise_get_no_hint():
    assert other_spellings(["x"], ["y"]) == ""
    assert other_spellings([], ["y"]) == ""


def test_the_nearest_name_is_the_one_whose_spelling_is_nearest():
    assert nearest("demo_resnett", ["demo_darknet", "demo_resnet"]) == "demo_resnet"
    assert nearest("Demo Resnet", ["demo_resnet"]) == "demo_resnet"
    assert nearest("x", ["demo_resnet"]) is None
