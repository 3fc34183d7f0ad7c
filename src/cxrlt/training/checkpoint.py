"""Checkpoints of a run under way: a safetensors file each, what is no tensor in its header, never a pickle.

They hold the weights, their average, the optimiser's state and how far the run has come. No more is needed:
the learning rate and the place in the data are functions of the update; what is random is one of (seed,
update, process) or of (seed, epoch, image id), so no generator has a state to keep; and training in bfloat16
or float32 scales no loss.
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

KEPT = 2
"""How many are kept: the one before the last is there for the day when the last cannot be read."""
MOMENTS = {"exp_avg", "exp_avg_sq"}
"""What Adam keeps of every weight, in its shape; beside them it keeps a number, the step."""


@dataclass
class Progress:
    """How far a run has come; travels with every checkpoint. The sums are of the epoch under way.

    `log` has a row per epoch that is over, validation included. `rows_per_pass` is how many rows the device
    computes at once, where its memory did not hold as many as the recipe says.
    """

    update: int = 0
    loss_sum: float = 0.0
    n_clipped: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)
    rows_per_pass: int | None = None


def save_checkpoint(
    run_dir: Path, model: nn.Module, ema: nn.Module, optimizer: Optimizer, progress: Progress
) -> Path:
    """Write everything a resumed run needs, and remove all but the last two. Returns where it lies."""
    tensors = _copies(_tensors_of(model, ema, optimizer))
    state = json.dumps(vars(progress))
    path = run_dir / f"checkpoint-{progress.update}.safetensors"
    _write(path, tensors, {"state": state, "sha256": sha256_of_tensors(tensors, state)})
    kept = checkpoints(run_dir, up_to=progress.update)[:KEPT]
    for other in checkpoints(run_dir):
        if other not in kept:  # older, or newer and found to be damaged
            other.unlink(missing_ok=True)
    return path


def load_checkpoint(
    run_dir: Path,
    model: nn.Module,
    ema: nn.Module,
    optimizer: Optimizer,
    say: Callable[[str], object] = lambda _: None,
) -> Progress | None:
    """Restore the last checkpoint that is whole into the three; None if there is none.

    `say` is told of those that are not.
    """
    unusable = []
    for path in checkpoints(run_dir):
        try:
            tensors, progress = _read(path)
            _require_same(tensors, model, ema, optimizer)
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            unusable.append(f"{path} cannot be used: {error}")
            continue
        _restore(tensors, model, ema, optimizer)
        if unusable:
            say(f"{'; '.join(unusable)}. Going on from the one before, of update {progress.update}.")
        return progress
    if unusable:
        say(f"{'; '.join(unusable)}. There is no other, so this training starts from its beginning.")
    return None


def checkpoints(run_dir: Path, up_to: int | None = None) -> list[Path]:
    """Those that lie in the folder, the last first; with `up_to` none of a later update."""
    found = {update_of(path): path for path in run_dir.glob("checkpoint-*.safetensors")}
    return [found[update] for update in sorted(found, reverse=True) if up_to is None or update <= up_to]


def update_of(path: Path) -> int:
    """How many updates had been made when the checkpoint was written."""
    number = path.stem.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


def snapshot_path(run_dir: Path, epoch: int | str) -> Path:
    """The averaged weights after an epoch, kept for a soup."""
    return run_dir / f"snapshot-{epoch}.safetensors"


def leftovers(run_dir: Path) -> list[Path]:
    """What a finished run does not need: checkpoints, snapshots of its epochs, files half written."""
    snapshots = run_dir.glob(snapshot_path(run_dir, "*").name)
    return [*checkpoints(run_dir), *snapshots, *run_dir.glob(TEMPORARY)]


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


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """One safetensors file, written whole or not at all. Raises UserError where the disk does not take it."""
    _write(path, _copies(tensors), metadata)


def sha256_of_tensors(tensors: Mapping[str, Tensor], beginning: str = "") -> str:
    """SHA-256 of names, types, shapes and values, in hexadecimal, with some text before them."""
    digest = hashlib.sha256(beginning.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    # save_file would write a file of its own beside it, which a kill leaves behind under a name nobody knows
    content = save(tensors, metadata)
    size = int.from_bytes(content[:8], "little")
    # the same in every process: the library writes metadata in an order of chance
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(content)[8 + size :])


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}


def _tensors_of(model: nn.Module, ema: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in ema.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in entries.items()}
    return tensors


def _read(path: Path) -> tuple[dict[str, Tensor], Progress]:
    """Raises ValueError, TypeError, OSError or SafetensorError if it is not what was written."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = metadata.get("state", "")
    if sha256_of_tensors(tensors, state) != metadata.get("sha256"):
        raise ValueError("its checksum is not that of what it holds")
    return tensors, Progress(**json.loads(state))


def _require_same(tensors: dict[str, Tensor], model: nn.Module, ema: nn.Module, optimizer: Optimizer) -> None:
    """Raises ValueError if they are not all that the three hold, in the same shapes."""
    shapes = {f"model.{key}": value.shape for key, value in model.state_dict().items()}
    shapes |= {f"ema.{key}": value.shape for key, value in ema.state_dict().items()}
    indices = {key.split(".")[1] for key in tensors if key.startswith("optimizer.")}
    weights = (weight for group in optimizer.param_groups for weight in group["params"])
    for index, weight in enumerate(weights):  # in the order in which the optimiser's state numbers them
        if str(index) in indices:  # a weight without a gradient has no state
            shapes |= {f"optimizer.{index}.{key}": weight.shape for key in MOMENTS}
            shapes[f"optimizer.{index}.step"] = torch.Size()
    found = {key: value.shape for key, value in tensors.items()}
    wrong = [key for key in sorted(shapes | found) if shapes.get(key) != found.get(key)]
    if wrong:
        raise ValueError(f"it is of another model ({listing(wrong, 3)})")


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
        entries |= {key: _laid_out_as(weight, value) for key, value in entries.items()}


def _laid_out_as(weight: Tensor, value: Tensor) -> Tensor:
    """A moment in the order in memory of its weight: a file loses it, and a fused step counts on it."""
    return torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
