"""The recipe's model.options: further arguments of timm.create_model, such as patch_size."""

import inspect
import warnings
from functools import partial
from typing import Any

import timm
import timm.layers
import torch
from timm.models import build_model_with_cfg

from cxrlt.errors import UserError
from cxrlt.recipe import ModelConfig
from cxrlt.spelling import did_you_mean

RECIPE_FIELDS = {
    "pretrained": "model.pretrained",
    "checkpoint_path": "model.pretrained",
    "img_size": "data.size",
    "drop_rate": "model.drop_rate",
    "drop_path_rate": "model.drop_path",
    "in_chans": "the challenge",
    "num_classes": "the challenge",
}
"""Argument of timm.create_model -> what sets it."""
LOADING_OPTIONS = frozenset(
    {*inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters}
    | {"features_only", "out_indices", "feature_cls", "pruned", "device", "dtype"}
)
"""Arguments that are not about the architecture: how timm loads weights, wraps or places the model."""


def create_options(cfg: ModelConfig) -> dict[str, Any]:
    """Return model.options as arguments; `mlp_layer: SwiGLUPacked` is that class of timm.layers.

    Raises UserError for arguments that another field of the recipe sets, and for those of timm's loader.
    """
    for name in cfg.options:
        if name in RECIPE_FIELDS:
            raise UserError(f"model.options: {name} is set by {RECIPE_FIELDS[name]}. Remove it.")
        if name in LOADING_OPTIONS:
            raise UserError(f"model.options: {name} is not an option of a backbone. Remove it.")
    return {name: _layer_class(name, value) for name, value in cfg.options.items()}


def options_error(cfg: ModelConfig, error: TypeError) -> UserError | None:
    """Return the error for an option that the backbone does not have or that its name fixes, if it is one."""
    name = next((name for name in cfg.options if f"'{name}'" in str(error)), None)
    if name is None:
        return None
    if "multiple values" in str(error):
        return UserError(f"model.options: {name} is fixed by the name {cfg.backbone}: use another backbone.")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbone = timm.create_model(cfg.backbone)
    known = inspect.signature(type(backbone).__init__).parameters.keys() - RECIPE_FIELDS.keys()
    hint = did_you_mean(name, known)
    return UserError(f"model.options: {cfg.backbone} has no option {name}{hint}. Correct or remove it.")


def _layer_class(name: str, value: object) -> object:
    """Return the class of timm.layers with this name, for a name of an option that is a layer."""
    found = getattr(timm.layers, value, None) if name.endswith("_layer") and isinstance(value, str) else None
    # some "classes" of timm are partial functions; others, such as silu, are texts that timm reads itself
    return found if isinstance(found, type | partial) else value
