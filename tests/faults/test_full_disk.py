"""Some of the refused writes; tools/full_disk.py refuses every one of them by hand."""

import errno
import random
from collections.abc import Iterator

import pytest
from harness import ROOM, Harness, on_a_disk_of_its_own
from tiny_stages import STAGES

from thinning import thinned

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(found: Harness) -> Iterator[Harness]:
    try:
        with on_a_disk_of_its_own(found):
            yield found
    except PermissionError:
        pytest.skip("this user may not mount")


@pytest.mark.parametrize("n_refusals", [1, pytest.param(3, marks=pytest.mark.full)])
@pytest.mark.parametrize("stage", thinned(STAGES, every=3, first=2))
def test_a_disk_that_takes_nothing_more_is_a_sentence_and_what_is_finished_stays(
    found: Harness, stage: str, n_refusals: int
) -> None:
    changes = range(found.alone(stage).n_events // 2)
    places = random.Random(stage).choices(changes, k=n_refusals)
    faults = [{"at": at, "fail": errno.ENOSPC} for at in places]
    wrong, ends = found.wrong_after(stage, [*faults, {"file_size": 2000}])
    assert not wrong, [end.struck for end in ends]
    assert ends[0].code == 2


@pytest.mark.parametrize("stage", ["cache", "train-plain", "submit"])
def test_a_full_disk_kills_nothing(small_disk: Harness, stage: str) -> None:
    wrong, ends = small_disk.wrong_after(stage, [{ROOM: 4096 * pages} for pages in (0, 2, 8)])
    assert not wrong
    assert ends[0].code == 2
