"""A sample of kills; tools/kill_stages.py runs any number of them."""

import random

import pytest
from harness import Harness, random_kill
from tiny_stages import STAGES

from sampled_cases import sample_cases

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("n_kills", [1, pytest.param(3, marks=pytest.mark.full)])
@pytest.mark.parametrize("stage", sample_cases(STAGES, every=3))
def test_a_killed_stage_ends_like_an_undisturbed_one(harness: Harness, stage: str, n_kills: int) -> None:
    dice = random.Random(f"{stage} {n_kills}")
    kills = [random_kill(harness.run_undisturbed(stage), dice) for _ in range(n_kills)]
    problems, ends = harness.problems_after(stage, kills)
    assert not problems, [(kill, end.fault_event) for kill, end in zip(kills, ends, strict=True)]


@pytest.mark.full
@pytest.mark.parametrize("stage", ["train-plain", "train-souped"])
def test_a_training_killed_between_file_changes_ends_like_an_undisturbed_one(
    harness: Harness, stage: str
) -> None:
    n_events = harness.run_undisturbed(stage).n_events
    for at in range(1, n_events, n_events // 4):
        problems, (end,) = harness.problems_after(stage, [{"at": at, "tear": bool(at % 2)}])
        assert end.fault_event
        assert not problems


def test_the_harness_finds_a_partial_file(harness: Harness) -> None:
    harness.restore("ensemble")
    left = harness.root / "folds" / "csv" / "plain" / "fold0" / ".left.1.tmp"
    left.write_text("half")
    (harness.root / "folds" / "csv" / "plain" / "fold0" / "run.json").write_text("{}")
    problems, _ = harness.disturb("ensemble", {"at": 0})
    assert problems == ["half-written: folds/csv/plain/fold0/run.json"]
