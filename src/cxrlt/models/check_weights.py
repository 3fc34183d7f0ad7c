"""`cxrlt weights check`: what is in a file of weights, and which rows of the table or timm models it fits."""

import os
from collections import Counter
from pathlib import Path

import timm
import torch
from torch import nn

from cxrlt.errors import UserError, listing
from cxrlt.models.backbone import create_model
from cxrlt.models.checkpoint_fit import best_fit, flatten
from cxrlt.models.checkpoints import fitting_models, read_checkpoint
from cxrlt.models.hub import local_path
from cxrlt.recipe import ModelConfig
from cxrlt.recipe.known_weights import read_known_weights
from cxrlt.spelling import did_you_mean


def check_weights(file: Path, like: str | None) -> str:
    """Return lines about a file; with `like`, whether it has all tensors of that row or timm model.

    Raises UserError for an unknown name, and for a file that cannot be read or does not fit.
    """
    return _describe(file) if like is None else _compare(file, like)


def _compare(file: Path, like: str) -> str:
    rows = read_known_weights()
    names = [*rows, *timm.list_models(), *timm.list_pretrained()]
    if like not in names:
        hint = did_you_mean(like, names)
        raise UserError(f"--like {like!r} is not in the table of `cxrlt weights` and not a timm model{hint}.")
    cfg = ModelConfig.model_validate({"weights" if like in rows else "backbone": like, "pretrained": file})
    known = timm.get_pretrained_cfg(cfg.backbone)
    size = rows[like].size if like in rows else known.input_size[-1] if known else 224
    lines: list[str] = []
    model = create_model(cfg, 1, size, log=lines.append)
    assert model.backbone is not None, "create_model returns a backbone"
    options = "".join(f", {option} {value}" for option, value in cfg.options.items())
    fits = f"all {len(model.backbone.state_dict())} tensors of {cfg.backbone}{options} are filled."
    return "\n".join([f"{file} fits {like}: {fits}", *lines])


def _describe(file: Path) -> str:
    path = local_path(file)
    if not path.is_file():
        raise UserError(f"{file} does not exist. Give the path of a file with weights.")
    tensors = flatten(read_checkpoint(path))
    if not tensors:
        raise UserError(f"{file} has no tensors: use a file with the weights of a model.")
    prefix = os.path.commonprefix([*tensors]).rpartition(".")[0]  # noqa: RUF071 - the last part is removed
    groups = Counter(name[len(prefix) :].lstrip(".").split(".")[0] for name in tensors)
    parts = listing(f"{group} ({n})" for group, n in groups.items())
    rows = [name for name in read_known_weights() if best_fit(tensors, _meta_backbone(name)).is_whole]
    models = fitting_models(tensors, _meta_backbone(rows[0]) if rows else None)
    return (
        f"{file}: {len(tensors)} tensors{f' below {prefix}' if prefix else ''}: {parts}.\n"
        f"timm models with these names and shapes: {listing(models) or 'none was found'}.\n"
        f"Rows of `cxrlt weights` with these names and shapes: {listing(rows) or 'none'}."
    )


def _meta_backbone(row: str) -> nn.Module:
    cfg = ModelConfig.model_validate({"weights": row, "pretrained": False})
    with torch.device("meta"):
        backbone = create_model(cfg, 1, read_known_weights()[row].size).backbone
    assert backbone is not None, "create_model returns a backbone"
    return backbone
