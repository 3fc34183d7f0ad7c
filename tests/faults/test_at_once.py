from zipfile import ZipFile

import pytest
from fault_client import Ended, Run
from harness import Harness
from tiny_stages import after, contents, left_over

pytestmark = pytest.mark.slow


def together(found: Harness, commands: list[list[str]]) -> list[Ended]:
    return found.server.together([Run(args) for args in commands])


@pytest.mark.parametrize("stage", ["demo", "folds", "cache", "submit"])
def test_two_at_once_end_as_one_after_the_other(found: Harness, stage: str) -> None:
    found.put_back(stage)
    ends = together(found, [found.command(stage)] * 2)
    assert [end.code for end in ends] == [0, 0], [end.output for end in ends]
    assert contents(found.root) == contents(after(found.before, stage))


def test_of_two_that_train_a_fold_the_second_is_told_of_the_first(found: Harness) -> None:
    found.put_back("train-plain")
    args = [*found.command("train-plain"), "--fold", "0"]
    one, two = sorted(together(found, [args] * 2), key=lambda end: end.code)
    assert one.code == 0, one.output
    assert two.is_sentence
    assert "is in use by process" in two.output and "Wait for it to end" in two.output
    assert found.run("train-plain").code == 0
    assert contents(found.root) == contents(after(found.before, "train-plain"))


def test_two_that_make_other_folds_leave_the_files_of_one(found: Harness) -> None:
    found.put_back("folds")
    seeds = [[*found.command("folds"), "--seed", seed] for seed in ("0", "1")]
    ends = together(found, seeds)
    assert sorted(end.code for end in ends) == [0, 2]
    assert "is another split" in ends[0].output + ends[1].output
    assert found.run("cache").code == 0 and not left_over(found.root)


def test_two_submissions_at_once_never_leave_a_zip_of_the_other(found: Harness) -> None:
    found.put_back("submit")
    calibrated = found.command("submit")
    raw = ["raw" if word == "calibrated" else word for word in calibrated]
    folder = found.root / "submissions" / "csv" / "ensemble"
    for _ in range(3):
        ends = together(found, [calibrated, raw])
        assert [end.code for end in ends] == [0, 0], [end.output for end in ends]
        with ZipFile(folder / "submission.zip") as packed:
            assert packed.read("submission.csv") == (folder / "submission.csv").read_bytes()
