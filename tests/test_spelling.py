import pytest

from cxrlt.spelling import closest_match, normalise_spelling, other_spellings


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
def test_names_are_compared_without_case_slash_direction_and_unicode_form(one, other, same):
    assert (normalise_spelling(one) == normalise_spelling(other)) is same


def test_ids_that_differ_only_in_spelling_are_counted_with_an_example():
    hint = other_spellings(["A.png", "x.png", "B.png"], ["a.png", "b.png", "c.png"])
    assert hint.startswith(" 2 of them differ only in spelling")
    assert "'A.png' here, 'a.png' there" in hint


def test_ids_that_differ_otherwise_get_no_hint():
    assert other_spellings(["x"], ["y"]) == ""
    assert other_spellings([], ["y"]) == ""


def test_the_closest_match_has_the_most_similar_spelling():
    assert closest_match("demo_resnett", ["demo_darknet", "demo_resnet"]) == "demo_resnet"
    assert closest_match("Demo Resnet", ["demo_resnet"]) == "demo_resnet"
    assert closest_match("x", ["demo_resnet"]) is None
