"""Checkpoints of a run under way: tensors in safetensors, the rest in JSON, never a pickle."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from cxrlt.artifacts import atomic_path, sha256_of, write_json
from cxrlt.errors import UserError

STATE = "checkpoint.json"


def save_checkpoint(
    run_dir: Path, model: nn.Module, ema: nn.Module, optimizer: Optimizer, state: dict
) -> None:
    """Write everything a resumed run needs. `state` is the loop's own JSON (update, epoch, sums).

    The tensors go to a file of their own per update and checkpoint.json, written last, names it with its
    SHA-256: a kill between the two leaves the checkpoint before this one in force.
    """
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in ema.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in entries.items()}
    path = run_dir / f"checkpoint-{state['update']}.safetensors"
    save_tensors(path, tensors)
    write_json(run_dir / STATE, {**state, "file": path.name, "sha256": sha256_of(path)})
    _remove_but(run_dir, path)


def load_checkpoint(run_dir: Path, model: nn.Module, ema: nn.Module, optimizer: Optimizer) -> dict | None:
    """Restore the last checkpoint into the three and return its `state`; None if there is none to trust."""
    try:
        state = json.loads((run_dir / STATE).read_text(encoding="utf-8"))
        path = run_dir / state.pop("file")
        if sha256_of(path) != state.pop("sha256"):
            return None
        tensors = load_file(path)
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    model.load_state_dict(_with_prefix(tensors, "model."))
    ema.load_state_dict(_with_prefix(tensors, "ema."))
    resumed = optimizer.state_dict()
    resumed["state"] = {}
    for key, value in _with_prefix(tensors, "optimizer.").items():
        index, name = key.split(".", 1)
        resumed["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(resumed)
    for weight, entries in optimizer.state.items():
        entries |= {key: _laid_out_as(weight, value) for key, value in entries.items()}
    return state


def snapshot_path(run_dir: Path, epoch: int | str) -> Path:
    """The averaged weights after an epoch, kept for a soup."""
    return run_dir / f"snapshot-{epoch}.safetensors"


def remove_checkpoints(run_dir: Path) -> None:
    """A finished run needs none, nor snapshots of its epochs."""
    (run_dir / STATE).unlink(missing_ok=True)
    _remove_but(run_dir, None)
    for path in run_dir.glob(snapshot_path(run_dir, "*").name):
        path.unlink(missing_ok=True)


def read_tensors(path: Path, made_by: str = "cxrlt train with --force, for that fold") -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError, naming the command `made_by`, if it holds none."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. Make it with: {made_by}") from error
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is damaged or no safetensors file ({error}). Make it again: {made_by}"
        ) from error


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """One safetensors file, written whole or not at all."""
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(copies, temporary, metadata)


def _laid_out_as(weight: Tensor, value: Tensor) -> Tensor:
    """A moment in the order in memory of its weight: a file loses it, and a fused step counts on it."""
    return torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _remove_but(run_dir: Path, keep: Path | None) -> None:
    for path in run_dir.glob("checkpoint-*.safetensors"):
        if path != keep:
            path.unlink(missing_ok=True)
