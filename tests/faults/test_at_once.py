from zipfile import ZipFile

import pytest
from fault_client import Run, RunResult
from harness import Harness
from tiny_stages import file_hashes, leftover_files, root_after

pytestmark = pytest.mark.slow


def run_parallel(harness: Harness, commands: list[list[str]]) -> list[RunResult]:
    return harness.server.run_parallel([Run(args) for args in commands])


@pytest.mark.parametrize("stage", ["demo", "folds", "cache", "submit"])
def test_two_parallel_runs_end_like_two_in_sequence(harness: Harness, stage: str) -> None:
    harness.restore(stage)
    ends = run_parallel(harness, [harness.command(stage)] * 2)
    assert [end.code for end in ends] == [0, 0], [end.output for end in ends]
    assert file_hashes(harness.root) == file_hashes(root_after(harness.before, stage))


def test_a_fold_that_is_being_trained_is_a_user_error(harness: Harness) -> None:
    harness.restore("train-plain")
    args = [*harness.command("train-plain"), "--fold", "0"]
    one, two = sorted(run_parallel(harness, [args] * 2), key=lambda end: end.code)
    assert one.code == 0, one.output
    assert two.is_user_error
    assert "is in use by process" in two.output and "Wait until it ends" in two.output
    assert harness.run("train-plain").code == 0
    assert file_hashes(harness.root) == file_hashes(root_after(harness.before, "train-plain"))


def test_two_different_parallel_splits_leave_the_files_of_one(harness: Harness) -> None:
    harness.restore("folds")
    seeds = [[*harness.command("folds"), "--seed", seed] for seed in ("0", "1")]
    ends = run_parallel(harness, seeds)
    assert sorted(end.code for end in ends) == [0, 2]
    assert "is a different split" in ends[0].output + ends[1].output
    assert harness.run("cache").code == 0 and not leftover_files(harness.root)


def test_parallel_submissions_never_mix_their_files(harness: Harness) -> None:
    harness.restore("submit")
    calibrated = harness.command("submit")
    raw = ["raw" if word == "calibrated" else word for word in calibrated]
    folder = harness.root / "submissions" / "csv" / "ensemble"
    for _ in range(3):
        ends = run_parallel(harness, [calibrated, raw])
        assert [end.code for end in ends] == [0, 0], [end.output for end in ends]
        with ZipFile(folder / "submission.zip") as packed:
            assert packed.read("submission.csv") == (folder / "submission.csv").read_bytes()
