"""Pretrained weights of a backbone: by name from timm, or from a file."""

from collections.abc import Callable
from pathlib import Path

import timm
from timm.models import PretrainedCfg
from torch import nn

from cxrlt.errors import UserError
from cxrlt.models.checkpoints import convert_checkpoint, read_checkpoint
from cxrlt.models.hub import local_path
from cxrlt.recipe import ModelConfig

Channels = tuple[float, ...]
"""One number per channel."""


def weights_licence(cfg: ModelConfig) -> str:
    """Return the licence of the pretrained weights, as timm states it."""
    if cfg.pretrained is False:
        return "none (random weights)"
    if isinstance(cfg.pretrained, Path):
        return f"as stated by the source of {cfg.pretrained}"
    known = timm.get_pretrained_cfg(cfg.backbone)
    return (known and known.license) or "not stated by timm"


def normalisation(cfg: ModelConfig) -> tuple[Channels, Channels]:
    """Return mean and std of pixels / 255, for three channels: those of the recipe, else those of timm."""
    if not cfg.normalise:
        return (0.0,) * 3, (1.0,) * 3
    known = timm.get_pretrained_cfg(cfg.backbone) or PretrainedCfg()
    mean, std = (
        default if own is None else own if isinstance(own, tuple) else (own,) * 3
        for own, default in ((cfg.mean, known.mean), (cfg.std, known.std))
    )
    return mean, std


def stem_normalisation(cfg: ModelConfig, channels: int) -> tuple[Channels, Channels]:
    """Return mean and std of every input channel of the backbone, for images of 1 or 3 `channels`.

    A stem of one channel, with the kernel summed over channels, equals the pretrained one on grey images only
    if mean and std are the same for all channels. Else the stem keeps three channels. Random weights have no
    such channels: their stem has one, with the averages.
    """
    mean, std = normalisation(cfg)
    equal = len(set(mean)) == len(set(std)) == 1
    if channels == 3 or (cfg.pretrained is not False and not equal):
        return mean, std
    return (sum(mean) / 3,), (sum(std) / 3,)


def load_file(backbone: nn.Module, cfg: ModelConfig, log: Callable[[str], object]) -> None:
    """Load the file model.pretrained into a timm model, except into its classifier.

    `log` is called with one line for every change to the tensors, and one about the normalisation. Raises
    UserError if the file does not exist, cannot be downloaded or read safely, or is of another architecture.
    """
    assert isinstance(cfg.pretrained, Path), "model.pretrained is not a file"
    path = local_path(cfg.pretrained)
    if not path.is_file():
        raise UserError(f"model.pretrained: {path} does not exist. {_download_hint(cfg)}")
    converted = convert_checkpoint(read_checkpoint(path), backbone, f"model.pretrained: {cfg.pretrained}")
    backbone.load_state_dict(backbone.state_dict() | converted.state)
    for note in (*converted.notes, _normalisation_note(cfg)):
        log(f"model.pretrained: {note}")


def weights_error(cfg: ModelConfig, error: Exception) -> UserError:
    """Return the error for pretrained weights that cannot be downloaded or do not fit."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(f"The weights of {cfg.backbone} could not be loaded ({reason}). {_download_hint(cfg)}")


def _normalisation_note(cfg: ModelConfig) -> str:
    """Return a line with the mean and std that images get, and where they are from."""
    if not cfg.normalise:
        return "pixels / 255 without mean and std (model.normalise False)"
    parts = []
    for name, values in zip(("mean", "std"), normalisation(cfg), strict=True):
        numbers = " ".join(f"{value:g}" for value in (values if len(set(values)) > 1 else values[:1]))
        owner = f"that of timm for {cfg.backbone}" if getattr(cfg, name) is None else "recipe"
        parts.append(f"{name} {numbers} ({owner})")
    hint = "; if the file needs others, set model.mean and model.std" if None in (cfg.mean, cfg.std) else ""
    return f"images are normalised with {' and '.join(parts)}{hint}"


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
