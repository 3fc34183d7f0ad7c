"""Training checkpoints: safetensors files with the other values in their header, never a pickle.

A checkpoint holds the weights, their EMA, the optimiser's state and the progress of the run. Nothing else is
needed. The learning rate and the position in the data are functions of the update. Random numbers are
functions of (seed, update, process) or of (seed, epoch, image id), so there is no generator state. bfloat16
and float32 need no loss scaling.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from cxrlt.errors import UserError, listing
from cxrlt.system.atomic_files import TEMPORARY, atomic_path

N_CHECKPOINTS = 2
"""Number of checkpoints that are kept: the older one is used if the last one is damaged."""
ADAM_MOMENTS = {"exp_avg", "exp_avg_sq"}
"""Adam's state for each weight, in the shape of the weight; Adam also has a scalar, the step."""


@dataclass
class Progress:
    """The progress of a run, saved in every checkpoint. `loss_sum` and `n_clipped` are of the current epoch.

    `log` has one row for each finished epoch, with its validation scores. `micro_batch_size` is set after an
    out-of-memory error, and is then smaller than the recipe's.
    """

    update: int = 0
    loss_sum: float = 0.0
    n_clipped: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)
    micro_batch_size: int | None = None


def save_checkpoint(
    run_dir: Path, model: nn.Module, ema: nn.Module, optimizer: Optimizer, progress: Progress
) -> Path:
    """Write everything that a resumed run needs, remove older checkpoints, and return the path."""
    tensors = _cpu_copies(_collect_tensors(model, ema, optimizer))
    state = json.dumps(vars(progress))
    path = run_dir / f"checkpoint-{progress.update}.safetensors"
    _write(path, tensors, {"state": state, "sha256": sha256_of_tensors(tensors, state)})
    kept = list_checkpoints(run_dir, up_to=progress.update)[:N_CHECKPOINTS]
    for other in list_checkpoints(run_dir):
        if other not in kept:  # older ones, and newer ones that are damaged
            other.unlink(missing_ok=True)
    return path


def load_checkpoint(
    run_dir: Path,
    model: nn.Module,
    ema: nn.Module,
    optimizer: Optimizer,
    warn: Callable[[str], object] = lambda _: None,
) -> Progress | None:
    """Restore model, EMA and optimiser from the last undamaged checkpoint; return None if there is none.

    `warn` is called with a message about damaged checkpoints.
    """
    unusable = []
    for path in list_checkpoints(run_dir):
        try:
            tensors, progress = _read(path)
            _require_matching_tensors(tensors, model, ema, optimizer)
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            unusable.append(f"{path} cannot be used: {error}")
            continue
        _restore(tensors, model, ema, optimizer)
        if unusable:
            warn(f"{'; '.join(unusable)}. Continuing from the one before, of update {progress.update}.")
        return progress
    if unusable:
        warn(f"{'; '.join(unusable)}. There is no other checkpoint: training starts from the beginning.")
    return None


def list_checkpoints(run_dir: Path, up_to: int | None = None) -> list[Path]:
    """Return the checkpoints in the folder, newest first; with `up_to`, none of a later update."""
    found = {checkpoint_update(path): path for path in run_dir.glob("checkpoint-*.safetensors")}
    return [found[update] for update in sorted(found, reverse=True) if up_to is None or update <= up_to]


def checkpoint_update(path: Path) -> int:
    """Return the number of updates before the checkpoint; -1 for a file name without a number."""
    number = path.stem.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


def snapshot_path(run_dir: Path, epoch: int | str) -> Path:
    """Return the path of the EMA weights after an epoch, which a soup averages."""
    return run_dir / f"snapshot-{epoch}.safetensors"


def intermediate_files(run_dir: Path) -> list[Path]:
    """Return the files that a finished run does not need: checkpoints, snapshots, temporary files."""
    snapshots = run_dir.glob(snapshot_path(run_dir, "*").name)
    return [*list_checkpoints(run_dir), *snapshots, *run_dir.glob(TEMPORARY)]


def read_tensors(path: Path, made_by: str = "cxrlt train with --force, for that fold") -> dict[str, Tensor]:
    """Read a safetensors file, with tensors of any shape. Raises UserError with `made_by` if damaged."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. Create it with: {made_by}") from error
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is damaged or not a safetensors file ({error}). Renew it with: {made_by}"
        ) from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors of any shape to a safetensors file, atomically. Raises UserError if the disk is full."""
    _write(path, _cpu_copies(tensors), metadata)


def sha256_of_tensors(tensors: Mapping[str, Tensor], prefix: str = "") -> str:
    """Return the hexadecimal SHA-256 of `prefix` and the name, dtype, shape and values of each tensor."""
    digest = hashlib.sha256(prefix.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    # save_file writes a temporary file under an unknown name, which a killed process would leave behind
    content = save(tensors, metadata)
    size = int.from_bytes(content[:8], "little")
    # sort the header: the library writes metadata in random order, and equal weights need equal files
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(content)[8 + size :])


def _cpu_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}


def _collect_tensors(model: nn.Module, ema: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in ema.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in entries.items()}
    return tensors


def _read(path: Path) -> tuple[dict[str, Tensor], Progress]:
    """Read a checkpoint. Raises ValueError, TypeError, OSError or SafetensorError if it is damaged."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = metadata.get("state", "")
    if sha256_of_tensors(tensors, state) != metadata.get("sha256"):
        raise ValueError("its checksum does not match its content")
    return tensors, Progress(**json.loads(state))


def _require_matching_tensors(
    tensors: dict[str, Tensor], model: nn.Module, ema: nn.Module, optimizer: Optimizer
) -> None:
    """Raises ValueError if the names and shapes are not those of model, EMA and optimiser."""
    shapes = {f"model.{key}": value.shape for key, value in model.state_dict().items()}
    shapes |= {f"ema.{key}": value.shape for key, value in ema.state_dict().items()}
    indices = {key.split(".")[1] for key in tensors if key.startswith("optimizer.")}
    weights = (weight for group in optimizer.param_groups for weight in group["params"])
    for index, weight in enumerate(weights):  # the optimiser's state numbers the weights in this order
        if str(index) in indices:  # a weight without a gradient has no state
            shapes |= {f"optimizer.{index}.{key}": weight.shape for key in ADAM_MOMENTS}
            shapes[f"optimizer.{index}.step"] = torch.Size()
    found = {key: value.shape for key, value in tensors.items()}
    wrong = [key for key in sorted(shapes | found) if shapes.get(key) != found.get(key)]
    if wrong:
        raise ValueError(f"it is from another model ({listing(wrong, 3)})")


def _restore(tensors: dict[str, Tensor], model: nn.Module, ema: nn.Module, optimizer: Optimizer) -> None:
    model.load_state_dict(_with_prefix(tensors, "model."))
    ema.load_state_dict(_with_prefix(tensors, "ema."))
    resumed = optimizer.state_dict()
    resumed["state"] = {}
    for key, value in _with_prefix(tensors, "optimizer.").items():
        index, name = key.split(".", 1)
        resumed["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(resumed)
    for weight, entries in optimizer.state.items():
        entries |= {key: _like_weight(weight, value) for key, value in entries.items()}


def _like_weight(weight: Tensor, value: Tensor) -> Tensor:
    """Copy a moment to the memory format of its weight: a file does not keep it, and fused steps need it."""
    return torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
