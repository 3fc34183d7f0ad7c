"""What a killed process leaves in a fold that is finished, or that was being emptied."""

from pathlib import Path

import pytest

from cxrlt.artifacts import read_json
from cxrlt.errors import UserError
from cxrlt.system.locks import lock_folder
from cxrlt.training.train import TrainPlan, train
from tiny import load_weights, same_weights, tiny_recipe


def write_leftovers(run_dir: Path) -> list[Path]:
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
    weights = load_weights(job)
    left = write_leftovers(job.run_dir)
    with lock_folder(job.run_dir):
        left[2].touch()
        train(source, plan)
        assert all(path.is_file() for path in left)
    train(source, plan)
    assert not any(path.exists() for path in left)
    assert same_weights(load_weights(job), weights)


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
