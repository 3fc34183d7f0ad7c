"""A fold killed between any two of its files ends, started again, as one that was left alone."""

import os
import signal
from pathlib import Path

import pytest

from cxrlt.artifacts import read_json
from cxrlt.errors import UserError
from cxrlt.locks import exclusive
from cxrlt.recipe import Recipe
from cxrlt.training.places import WEIGHTS
from cxrlt.training.train import TrainPlan, train
from tiny import same, tiny_recipe, weights_of

SOUP = {"kind": "average", "snapshots": 2, "inner_share": 0.25}
KINDS: dict[str, dict[str, object]] = {
    "staged soup": {"schedule.stages": ({"epochs": 1, "frozen": True}, {"epochs": 1}), "soup": SOUP},
    "best": {"predict.weights": "best"},
}


def recipe_of(kind: str) -> Recipe:
    return tiny_recipe(checkpoint_minutes=1e-9, **{"optim.batch_size": 16}, **KINDS[kind])


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def trained_until(source, plan: TrainPlan, n: int, finished: bool) -> bool:
    """Train in a process of its own, killed before its file operation number n; whether it was.

    With `finished` only those count that come after the weights are there.
    """
    pid = os.fork()
    if pid == 0:
        weights = source.workspace.run_dir("csv", plan.name) / "fold0" / WEIGHTS
        left = [n]

        def counted(real):
            def call(path, *args, **options):
                if plan.name in str(path) and (weights.is_file() or not finished):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                return real(path, *args, **options)

            return call

        Path.replace, Path.unlink = counted(Path.replace), counted(Path.unlink)
        try:
            train(source, plan)
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize(
    ("kind", "finished", "step"), [("staged soup", False, 17), ("staged soup", True, 3), ("best", True, 2)]
)
def test_a_fold_killed_before_any_of_its_files_is_there_or_gone_ends_as_if_left_alone(
    source, kind, finished, step
):
    (whole,) = train(source, TrainPlan(f"{kind} left alone", recipe_of(kind), folds=(0,)))
    n, kills = 1, 0
    while True:
        plan = TrainPlan(f"{kind} killed {finished} {n}", recipe_of(kind), folds=(0,))
        if not trained_until(source, plan, n, finished):
            break
        (job,) = train(source, plan)
        assert same(weights_of(job), weights_of(whole)), n
        assert files_in(job.run_dir) == files_in(whole.run_dir), n
        n, kills = n + step, kills + 1
    assert kills > 1


def leave_behind(run_dir: Path) -> list[Path]:
    names = ("checkpoint-3.safetensors", "snapshot-1.safetensors", ".weights.safetensors.1.tmp")
    left = [
        run_dir / name for name in (*names, "stage1/weights.safetensors", "stage1/checkpoint-1.safetensors")
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return left


def test_what_lies_in_a_finished_fold_is_removed_unless_another_process_works_there(source):
    plan = TrainPlan("littered", tiny_recipe(**{"schedule.epochs": 1}), folds=(0,))
    (job,) = train(source, plan)
    weights = weights_of(job)
    left = leave_behind(job.run_dir)
    with exclusive(job.run_dir):
        left[2].touch()
        train(source, plan)
        assert all(path.is_file() for path in left)
    train(source, plan)
    assert not any(path.exists() for path in left)
    assert same(weights_of(job), weights)


def test_a_fold_whose_removal_was_cut_short_is_not_taken_for_finished_nor_for_another(source, monkeypatch):
    fields = {"schedule.epochs": 1, "checkpoint_minutes": 1e-9}
    plan = TrainPlan("half removed", tiny_recipe(**fields), folds=(0,))
    (job,) = train(source, plan)
    (job.run_dir / "checkpoint-2.safetensors").write_bytes(b"of the old run")
    removed, real = [], Path.unlink

    def dying(path, *args, **options):
        removed.append(path.name)
        if path.name == "checkpoint-2.safetensors":
            raise InterruptedError
        real(path, *args, **options)

    other = TrainPlan("half removed", tiny_recipe(**fields, **{"optim.lr": 1e-3}), folds=(0,), force=True)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Path, "unlink", dying)
        train(source, other)
    assert "weights.safetensors" in removed
    assert "run.json" not in removed
    with pytest.raises(UserError, match=r"already holds another run \(optim\.lr: 0\.002 -> 0\.001\)"):
        train(source, TrainPlan("half removed", other.recipe, folds=(0,)))
    (again,) = train(source, other)
    assert read_json(again.run_dir / "run.json", made_by="")["name"] == "half removed"
