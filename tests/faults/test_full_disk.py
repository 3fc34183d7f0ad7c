"""A sample of refused writes; tools/full_disk.py refuses each of them."""

import errno
import random
from collections.abc import Iterator

import pytest
from harness import DISK_SPACE, Harness, on_tmpfs
from tiny_stages import STAGES

from sampled_cases import sample_cases

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(harness: Harness) -> Iterator[Harness]:
    try:
        with on_tmpfs(harness):
            yield harness
    except PermissionError:
        pytest.skip("this user may not mount")


@pytest.mark.parametrize("n_refusals", [1, pytest.param(3, marks=pytest.mark.full)])
@pytest.mark.parametrize("stage", sample_cases(STAGES, every=3, first=2))
def test_a_full_disk_is_a_user_error_and_finished_work_stays(
    harness: Harness, stage: str, n_refusals: int
) -> None:
    changes = range(harness.run_undisturbed(stage).n_events // 2)
    places = random.Random(stage).choices(changes, k=n_refusals)
    faults = [{"at": at, "fail": errno.ENOSPC} for at in places]
    problems, ends = harness.problems_after(stage, [*faults, {"file_size": 2000}])
    assert not problems, [end.fault_event for end in ends]
    assert ends[0].code == 2


@pytest.mark.parametrize("stage", ["cache", "train-plain", "submit"])
def test_a_full_tmpfs_is_a_user_error_and_finished_work_stays(small_disk: Harness, stage: str) -> None:
    problems, ends = small_disk.problems_after(stage, [{DISK_SPACE: 4096 * pages} for pages in (0, 2, 8)])
    assert not problems
    assert ends[0].code == 2
