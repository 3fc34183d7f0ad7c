import pytest

from fuzz.engine import fuzz

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("target", "cases"), [("table", 250), ("submission", 600), ("yaml", 150)])
def test_damaged_files_are_read_correctly_or_are_a_user_error(target, cases):
    report = fuzz(target, seed=1, minutes=60, cases=cases, keep=None)
    assert report.failures == []
    assert report.cases == cases
    assert 0 < report.accepted < cases
    assert len(report.refused) > 5
