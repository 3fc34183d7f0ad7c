"""Weights that a backbone starts from: by name through timm, or from a file."""

from collections.abc import Mapping
from pathlib import Path

import timm
from timm.models import load_state_dict
from torch import Tensor

from cxrlt.errors import UserError, listing
from cxrlt.models.chatter import without_chatter
from cxrlt.recipe import ModelConfig


def weights_licence(cfg: ModelConfig) -> str:
    """Licence of the pretrained weights, as timm states it."""
    if cfg.pretrained is False:
        return "none (random weights)"
    if isinstance(cfg.pretrained, Path):
        return f"as stated by the source of {cfg.pretrained}"
    known = timm.get_pretrained_cfg(cfg.backbone)
    return (known and known.license) or "not stated by timm"


def local_weights(cfg: ModelConfig) -> dict[str, Tensor]:
    """The tensors in the file, checked against the backbone: timm itself only warns of missing ones."""
    path = Path(cfg.pretrained)
    if not path.is_file():
        raise UserError(f"model.pretrained: {path} does not exist. {_where_to_get(cfg)}")
    try:
        state = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and safetensors each raise their own kinds
        # the rest of torch's message says how to execute the file
        raise UserError(_unsafe(path, " ".join(str(error).split()).split(". ")[0])) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise UserError(_unsafe(path, "what is in it are not named tensors"))
    own = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
    state = own or state  # a run's weights hold more than its backbone
    with without_chatter():
        backbone = timm.create_model(cfg.backbone, pretrained=False, in_chans=1, num_classes=0)
    missing = [key for key in backbone.state_dict() if key not in state]
    if missing:
        raise UserError(
            f"model.pretrained: {path} lacks {len(missing)} tensors of {cfg.backbone} "
            f"({listing(missing, 3)}). {_where_to_get(cfg)}"
        )
    return state


def no_weights(cfg: ModelConfig, error: Exception) -> UserError:
    """What to say when timm's weights cannot be had or do not fit."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"The weights of {cfg.backbone} could not be loaded ({reason}). {_where_to_get(cfg)}")


def _unsafe(path: Path, reason: str) -> str:
    return (
        f"model.pretrained: {path} holds no weights that can be read safely ({reason}). "
        "Take a file that holds tensors alone, such as model.safetensors."
    )


def _where_to_get(cfg: ModelConfig) -> str:
    known = timm.get_pretrained_cfg(cfg.backbone)
    source = (
        f"{known.hf_hub_id}/model.safetensors of the Hugging Face hub"
        if known and known.hf_hub_id
        else "a file"
    )
    return (
        f"Get {source} on a machine with network and pass --model.pretrained FILE, "
        "or start from random weights with --model.pretrained False."
    )
