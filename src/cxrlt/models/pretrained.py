"""Pretrained weights of a backbone: by name from timm, or from a local file."""

from collections.abc import Mapping
from pathlib import Path

import timm
from timm.models import load_state_dict
from torch import Tensor

from cxrlt.errors import UserError, listing
from cxrlt.models.timm_logging import quiet_timm
from cxrlt.recipe import ModelConfig


def weights_licence(cfg: ModelConfig) -> str:
    """Return the licence of the pretrained weights, as timm states it."""
    if cfg.pretrained is False:
        return "none (random weights)"
    if isinstance(cfg.pretrained, Path):
        return f"as stated by the source of {cfg.pretrained}"
    known = timm.get_pretrained_cfg(cfg.backbone)
    return (known and known.license) or "not stated by timm"


def load_local_weights(cfg: ModelConfig) -> dict[str, Tensor]:
    """Read the file model.pretrained: name -> tensor of any shape, with all names of the backbone.

    Raises UserError if the file does not exist, cannot be read safely, or lacks tensors: timm would only
    warn.
    """
    path = cfg.pretrained
    assert isinstance(path, Path), "model.pretrained is not a file"
    if not path.is_file():
        raise UserError(f"model.pretrained: {path} does not exist. {_download_hint(cfg)}")
    try:
        state = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and safetensors raise different errors
        # only the first sentence: the rest of torch's message says how to execute the file
        raise UserError(_unsafe_file_message(path, " ".join(str(error).split()).split(". ")[0])) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise UserError(_unsafe_file_message(path, "its content is not a dict of tensors"))
    own = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
    state = own or state  # weights.safetensors of a run has more than the backbone
    with quiet_timm():
        backbone = timm.create_model(cfg.backbone, pretrained=False, in_chans=1, num_classes=0)
    missing = [key for key in backbone.state_dict() if key not in state]
    if missing:
        raise UserError(
            f"model.pretrained: {path} lacks {len(missing)} tensors of {cfg.backbone} "
            f"({listing(missing, 3)}). {_download_hint(cfg)}"
        )
    return state


def weights_error(cfg: ModelConfig, error: Exception) -> UserError:
    """Return the error for pretrained weights that cannot be downloaded or do not fit."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"The weights of {cfg.backbone} could not be loaded ({reason}). {_download_hint(cfg)}")


def _unsafe_file_message(path: Path, reason: str) -> str:
    return (
        f"model.pretrained: {path} has no weights that can be read safely ({reason}). "
        "Use a file with tensors only, such as model.safetensors."
    )


def _download_hint(cfg: ModelConfig) -> str:
    known = timm.get_pretrained_cfg(cfg.backbone)
    source = (
        f"{known.hf_hub_id}/model.safetensors from the Hugging Face Hub"
        if known and known.hf_hub_id
        else "a file"
    )
    return (
        f"Download {source} on a machine with internet and pass --model.pretrained FILE, "
        "or start from random weights with --model.pretrained False."
    )
