"""What lies on disk and is not what was written is found out, and said in a sentence."""

import copy
import json
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cxrlt.errors import UserError
from cxrlt.models.backbone import create_model
from cxrlt.provenance import digest_of_weights
from cxrlt.training.checkpoint import (
    Progress,
    checkpoint_update,
    list_checkpoints,
    load_checkpoint,
    read_tensors,
    save_checkpoint,
    save_tensors,
)
from cxrlt.training.optim import create_optimizer
from cxrlt.training.train import TrainPlan, train
from interruptions import stop_in_update
from tiny import load_weights, same_weights, tiny_recipe
from user_errors import assert_mentions

pytestmark = pytest.mark.slow


class Run:
    """A network, its average and its optimiser after one step."""

    def __init__(self, width: int = 3) -> None:
        recipe = tiny_recipe()
        torch.manual_seed(0)
        self.model = create_model(recipe.model, width, 32)
        self.ema = copy.deepcopy(self.model)
        self.optimizer = create_optimizer(self.model, recipe.optim)
        self.step()

    def step(self) -> None:
        images = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
        self.model({"images": images}).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, run_dir: Path, update: int) -> Path:
        return save_checkpoint(run_dir, self.model, self.ema, self.optimizer, Progress(update))

    def load(self, run_dir: Path, warn=lambda _: None) -> Progress | None:
        return load_checkpoint(run_dir, self.model, self.ema, self.optimizer, warn)

    def tensors(self) -> dict[str, torch.Tensor]:
        moments = self.optimizer.state_dict()["state"]
        flat = {f"{i}.{key}": value for i, state in moments.items() for key, value in state.items()}
        return {key: value.clone() for key, value in (self.model.state_dict() | flat).items()}


def rewritten(path: Path, **header: str) -> bytes:
    """Return the file with other values in its header; the file is still valid."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    fields = json.loads(content[8 : 8 + size])
    fields["__metadata__"] |= header
    text = json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 4
    return bytes(changed)


DAMAGE = {
    "empty": lambda path: b"",
    "truncated in the header": lambda path: path.read_bytes()[:100],
    "truncated in the tensors": lambda path: path.read_bytes()[:-1],
    "a bit of a tensor": lambda path: flipped(path.read_bytes(), -9),
    "a bit of the header": lambda path: flipped(path.read_bytes(), 60),
    "the state": lambda path: rewritten(path, state=json.dumps(vars(Progress(99)))),
    "no state": lambda path: rewritten(path, state=""),
    "a pickle": lambda path: pickle.dumps({"state": 1}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_taken(tmp_path, damage):
    run, said = Run(), []
    run.save(tmp_path, 10)
    before = run.tensors()
    run.step()
    last = run.save(tmp_path, 20)
    last.write_bytes(DAMAGE[damage](last))
    fresh = Run()
    assert fresh.load(tmp_path, said.append) == Progress(10)
    assert same_weights(fresh.tensors(), before)
    (line,) = said
    assert_mentions(line, last, "update 10")


def test_every_bit_of_a_checkpoint_counts(tmp_path):
    run = Run()
    path = run.save(tmp_path, 1)
    content, rng = path.read_bytes(), torch.Generator().manual_seed(0)
    fresh = Run()
    before = fresh.tensors()
    size = int.from_bytes(content[:8], "little")
    places = [*range(0, 8 + size, 499), *torch.randint(len(content), (20,), generator=rng).tolist()]
    for place in places:
        path.write_bytes(flipped(content, place))
        said = []
        assert fresh.load(tmp_path, said.append) is None, place
        assert len(said) == 1
        assert same_weights(fresh.tensors(), before)


def test_without_a_whole_checkpoint_training_starts_from_its_beginning_and_says_why(tmp_path):
    run, said = Run(), []
    for update in (1, 2):
        run.save(tmp_path, update).write_bytes(b"nothing")
    assert Run().load(tmp_path, said.append) is None
    assert_mentions(said[0], "checkpoint-2.safetensors", "checkpoint-1.safetensors")
    assert "update" not in said[0]  # there is none to go on from
    said.clear()
    assert Run().load(tmp_path / "elsewhere", said.append) is None
    assert not said


def test_a_checkpoint_of_another_model_or_of_half_a_state_is_not_loaded(tmp_path):
    Run(width=5).save(tmp_path, 3)
    run, said = Run(), []
    before = run.tensors()
    assert run.load(tmp_path, said.append) is None
    assert "ema.head" in said[0]
    del run.optimizer.state[run.optimizer.param_groups[0]["params"][0]]["exp_avg_sq"]
    run.save(tmp_path, 3)
    fresh = Run()
    assert fresh.load(tmp_path, said.append) is None
    assert "optimizer." in said[1]
    assert same_weights(fresh.tensors(), before)


def test_the_last_two_are_kept_and_none_of_a_future_that_was_given_up(tmp_path):
    run = Run()
    for update in (10, 20, 30, 40):
        run.save(tmp_path, update)
    assert [checkpoint_update(path) for path in list_checkpoints(tmp_path)] == [40, 30]
    list_checkpoints(tmp_path)[0].write_bytes(b"")
    run.load(tmp_path)
    run.save(tmp_path, 35)
    assert [checkpoint_update(path) for path in list_checkpoints(tmp_path)] == [35, 30]


def test_a_full_disk_is_a_sentence_and_leaves_the_checkpoint_before(tmp_path):
    run = Run()
    kept = run.save(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"checkpoint-2\.safetensors cannot be written: File too large"):
            run.save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    assert Run().load(tmp_path) == Progress(1)


def test_nothing_but_the_file_is_written_beside_it(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.extend(path.name for path in tmp_path.iterdir()))
    save_tensors(tmp_path / "weights.safetensors", {"weight": torch.ones(3)})
    assert seen == [f".weights.safetensors.{os.getpid()}.tmp"]
    assert same_weights(load_file(tmp_path / "weights.safetensors"), {"weight": torch.ones(3)})


@pytest.mark.parametrize("n_damaged", [1, 2])
def test_a_fold_with_damaged_checkpoints_ends_with_the_weights_it_should(source, capsys, n_damaged):
    recipe = tiny_recipe(checkpoint_minutes=1e-9)
    (whole,) = train(source, TrainPlan("undamaged", recipe, folds=(0,)))
    plan = TrainPlan(f"damaged-{n_damaged}", recipe, folds=(0,))
    with stop_in_update(5):  # an epoch has four
        train(source, plan)
    found = list_checkpoints(source.workspace.run_dir("csv", plan.name) / "fold0")
    assert [checkpoint_update(path) for path in found] == [5, 4]
    for path in found[:n_damaged]:
        path.write_bytes(flipped(path.read_bytes(), -1))
    capsys.readouterr()
    (job,) = train(source, plan)
    assert same_weights(load_weights(job), load_weights(whole))
    out = capsys.readouterr().out
    assert_mentions(out, "checkpoint-5.safetensors", "checksum")
    assert ("update 4 of 8" in out) == (n_damaged == 1)
    assert not list_checkpoints(job.run_dir)


def test_a_truncated_or_foreign_file_of_weights_is_a_sentence_with_its_path_and_what_mends_it(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(50)}, path)
    whole = path.read_bytes()
    broken = [whole[:size] for size in (0, 7, 50, len(whole) - 1)]
    for content in (*broken, whole + b"more", b"PK\3\4" * 99, pickle.dumps({"weight": 1}), b"\xff" * 500):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{path} .*\(.+\).*--force"):
            read_tensors(path)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path} .*cxrlt train x"):
        read_tensors(path, made_by="cxrlt train x")


def test_weights_are_known_by_their_values_which_are_hashed_once(tmp_path, monkeypatch):
    path, again = tmp_path / "weights.safetensors", tmp_path / "again.safetensors"
    save_tensors(path, {"w": torch.arange(3.0)}, {"note": "one"})
    save_tensors(again, {"w": torch.arange(3.0)}, {"note": "another"})
    first = digest_of_weights(path)
    assert path.read_bytes() != again.read_bytes()
    assert digest_of_weights(again) == first
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it is read again"))
    assert digest_of_weights(path) == first
    monkeypatch.undo()
    save_tensors(path, {"w": torch.arange(1.0, 4.0)})
    assert digest_of_weights(path) != first
    path.unlink()
    with pytest.raises(UserError, match="does not exist: train that fold first"):
        digest_of_weights(path)
