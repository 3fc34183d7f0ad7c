"""Some of the kills; tools/kill.py makes any number of them by hand."""

import random

import pytest
from harness import Harness, random_kill
from tiny_stages import STAGES

from thinning import thinned

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("n_kills", [1, pytest.param(3, marks=pytest.mark.full)])
@pytest.mark.parametrize("stage", thinned(STAGES, every=3))
def test_a_killed_stage_ends_as_one_left_alone(found: Harness, stage: str, n_kills: int) -> None:
    dice = random.Random(f"{stage} {n_kills}")
    kills = [random_kill(found.alone(stage), dice) for _ in range(n_kills)]
    wrong, ends = found.wrong_after(stage, kills)
    assert not wrong, [(kill, end.struck) for kill, end in zip(kills, ends, strict=True)]


@pytest.mark.full
@pytest.mark.parametrize("stage", ["train-plain", "train-souped"])
def test_a_training_killed_before_one_of_its_files_is_there_or_gone_ends_as_one_left_alone(
    found: Harness, stage: str
) -> None:
    n_events = found.alone(stage).n_events
    for at in range(1, n_events, n_events // 4):
        wrong, (end,) = found.wrong_after(stage, [{"at": at, "tear": bool(at % 2)}])
        assert end.struck
        assert not wrong


def test_a_harness_that_finds_nothing_wrong_has_looked(found: Harness) -> None:
    found.put_back("ensemble")
    left = found.root / "folds" / "csv" / "plain" / "fold0" / ".left.1.tmp"
    left.write_text("half")
    (found.root / "folds" / "csv" / "plain" / "fold0" / "run.json").write_text("{}")
    wrong, _ = found.disturb("ensemble", {"at": 0})
    assert wrong == ["half-written: folds/csv/plain/fold0/run.json"]
