from cxrlt.errors import listing, quoted, shortened


def test_quoted_text_is_one_short_line_without_control_characters():
    assert shortened("Round(ed) Atelectasis, é, 日本") == "Round(ed) Atelectasis, é, 日本"
    assert shortened("a\nb\x1b[31m\u202e\udcff") == "a\\nb\\x1b[31m\\u202e\\udcff"
    assert shortened("x" * 100, 5) == "xxxx…"
    assert quoted("it's\n") == '"it\'s\\n"'
    assert quoted("x" * 10_000_000, 8) == "'xxxxx…'"


def test_a_listing_ends_with_the_count_and_shortens_its_items():
    assert listing(["a", "b"]) == "a, b"
    assert listing(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 … (12 in all)"
    assert len(listing(["x" * 1_000_000] * 20)) < 10_000
    assert listing(["a\nb"]) == "a\\nb"
