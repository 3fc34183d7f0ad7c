"""Which tensors of a checkpoint are those of a backbone: prefix, names, shapes, and what is left over."""

import math
import re
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from cxrlt.models.checkpoint_layouts import apply_timm_filter, to_timm_layout

MAX_DEPTH = 8
"""Deepest nesting of dicts that is searched: published checkpoints have at most three levels."""
BUFFERS = re.compile(
    r"(^|\.)(attn_mask|relative_position_index|relative_coords_table|num_batches_tracked|position_ids"
    r"|bias_mask|periods|freqs_(cos|sin))$"
)
"""Tensors that timm computes itself, or does not need."""
EXTRAS = re.compile(
    r"(?!conv_head)(.*_)?heads?(_.*)?|.*(classif|decoder|proj|predict|pool|text|bert|caption|word|embedder)"
    r".*|fc|pred|pre_logits|logit_.*|mask_token|transformer|token_embedding|positional_embedding|ln_final"
    r"|(global|local|mlp)_embed|proto.*|dino.*|ibot.*|.*queue.*|.*(loss|center).*|criterion|aux.*|optim.*"
    r"|.*sched.*|scaler|callbacks|loops|hyper_.*|fusion|(pixel_)?(mean|std)|(res|dense)_l\d|.*att(e)?n_layer"
    r"|.*embedding_layer|missing_previous_emb|backbone_to_vit|rope_embed"
)
"""Parts of checkpoints beside the backbone: heads, decoders, projectors, text encoders, training state."""
COUNTER = "num_batches_tracked"
"""Counter of batch norm: files older than 2018 lack it, and a fixed momentum does not need it."""
AVERAGED = re.compile(r"(^|[._])ema[._]|teacher|target")
"""Averaged copies of the weights are preferred: their authors evaluate them."""
MOMENTUM = re.compile(r"encoder_k|momentum")
"""MoCo's encoder of the negatives: its authors fine-tune the other one."""
RESAMPLED = {
    "patch_embed.proj.weight": "patch kernel",
    "pos_embed": "position grid",
    "relative_position_bias_table": "position bias table",
}
"""End of the names of tensors that timm resamples to another size -> what they are."""
NAMES_IN_CLIP = {
    "pos_embed": "visual.positional_embedding",
    "patch_embed.proj.weight": "visual.conv1.weight",
}


@dataclass(frozen=True)
class Fit:
    """How the tensors below `prefix` of a checkpoint fit a backbone.

    `state`: those with its names and shapes; `n_named`: number of those with its names. `missing`: names of
    the backbone that are not there in this shape. `unknown`: tensors that show another architecture.
    `extras`: tensors of known parts beside the backbone. `changes`: lines on stem, norm, grids and kernels.
    """

    prefix: str
    n_named: int
    state: dict[str, Tensor]
    missing: list[str]
    unknown: list[str]
    extras: list[str]
    changes: list[str]

    @property
    def is_whole(self) -> bool:
        """Whether every tensor of the backbone is there and no other architecture shows."""
        return not self.missing and not self.unknown


def flatten(content: object, prefix: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Return all tensors (any shape) of nested dicts with text keys, under names joined by dots."""
    if isinstance(content, Tensor):
        usable = content.layout == torch.strided and content.device.type == "cpu" and not content.is_quantized
        return {prefix[:-1]: content.detach()} if prefix and usable else {}
    if not isinstance(content, Mapping) or depth > MAX_DEPTH:
        return {}
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if isinstance(key, str):
            tensors |= flatten(value, f"{prefix}{key}.", depth + 1)
    return tensors


def wanted_tensors(backbone: nn.Module) -> dict[str, Tensor]:
    """Return name -> tensor (any shape) of a timm model, without its classifier."""
    classifier = _classifier(backbone)
    return {name: value for name, value in backbone.state_dict().items() if not name.startswith(classifier)}


def best_fit(tensors: Mapping[str, Tensor], backbone: nn.Module) -> Fit:
    """Return the fit for the prefix with most tensors (any shape) in place; of equals the averaged copy."""
    wanted = wanted_tensors(backbone)
    parts = [name.split(".") for name in tensors]
    counts = Counter(".".join(part[:n]) + "." for part in parts for n in range(1, len(part)))
    prefixes = ["", *(prefix for prefix, count in counts.items() if count >= len(wanted) / 2)]
    return max((_fit(tensors, prefix, backbone, wanted) for prefix in prefixes), key=_rank)


def _rank(fit: Fit) -> tuple[int, ...]:
    preferred = bool(AVERAGED.search(fit.prefix)) - bool(MOMENTUM.search(fit.prefix))
    return len(fit.state), fit.n_named, preferred, len(fit.prefix)


def _fit(
    tensors: Mapping[str, Tensor], prefix: str, backbone: nn.Module, wanted: Mapping[str, Tensor]
) -> Fit:
    blocks = {name.split(".")[0] for name in wanted}
    inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    body = to_timm_layout(inside, wanted)
    # timm's filters fail on some extras, but need mask_token to know DINOv2
    extras = {name for name in body if name != "mask_token" and _is_extra(name, blocks)}
    body = {name: value for name, value in body.items() if name not in extras}
    converted, changes = _fit_names(apply_timm_filter(body, backbone), wanted)
    found = {name: value for name, value in converted.items() if not name.startswith(_classifier(backbone))}
    changes += _adapt_stem(found, backbone, wanted) + _resampled(body, found)
    state = {name: found[name] for name in wanted if name in found and _same_kind(found[name], wanted[name])}

    used = {_storage(value) for value in converted.values()}
    rest = {name: value for name, value in found.items() if name not in wanted}
    for name, value in body.items():  # what timm left out; below visual. (CLIP) it only renames and resamples
        if name not in converted and _storage(value) not in used and not name.startswith("visual."):
            rest[name] = value
    unknown = [
        name for name in rest if not (_is_extra(name, blocks) or _has_no_effect(name, rest[name], blocks))
    ]
    beside, unknown_beside = _split_beside(tensors, prefix, inside, used)
    extras |= (rest.keys() - unknown) | (converted.keys() - found.keys()) | beside
    missing = [
        f"{name} {tuple(value.shape)}" + (f", not {tuple(found[name].shape)}" if name in found else "")
        for name, value in wanted.items()
        if name not in state and not name.endswith(COUNTER)
    ]
    n_named = len(found.keys() & wanted)
    return Fit(prefix, n_named, state, missing, unknown + unknown_beside, sorted(extras), changes)


def _split_beside(
    tensors: Mapping[str, Tensor], prefix: str, inside: Mapping[str, Tensor], used: set[int]
) -> tuple[set[str], list[str]]:
    """Return names, below the part they share with `prefix`, of known extras or copies, and of the others."""
    extras, unknown = set(), []
    for name, value in tensors.items():
        if name.startswith(prefix):
            continue
        parts, start = name.split("."), prefix.split(".")
        n_shared = next(n for n, part in enumerate(parts) if part != start[n])
        short = ".".join(parts[n_shared:])
        ends = (".".join(parts[n:]) for n in range(1, len(parts)))
        is_copy = any(end in inside and inside[end].shape == value.shape for end in ends)
        is_known = any(map(_is_extra, parts[n_shared:])) or _has_no_effect(short, value)
        if is_copy or is_known or _storage(value) in used:
            extras.add(short)
        else:
            unknown.append(name)
    return extras, unknown


def _is_extra(name: str, blocks: Container[str] = ()) -> bool:
    first = name.split(".")[0]
    return first not in blocks and EXTRAS.fullmatch(first.lower()) is not None


def _has_no_effect(name: str, value: Tensor, blocks: Container[str] = ()) -> bool:
    """Return whether it is a buffer, a bias of zeros, or a single number outside the backbone's blocks."""
    is_number = value.ndim == 0 and name.split(".")[0] not in blocks
    return bool(BUFFERS.search(name)) or is_number or (name.endswith("bias") and not bool(value.any()))


def _fit_names(state: dict[str, Tensor], wanted: Container[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the final norm as this backbone does, and add `features.` if all of its names begin with it."""
    changes = []
    for old, new in (("norm", "fc_norm"), ("fc_norm", "norm")):
        has_new = f"{new}.weight" in wanted and f"{old}.weight" not in wanted
        if has_new and f"{old}.weight" in state and f"{new}.weight" not in state:
            state = {re.sub(rf"^{old}\.", f"{new}.", name): value for name, value in state.items()}
            changes.append(f"{old} is used as {new}")
    state = {name if f"features.{name}" not in wanted else f"features.{name}": state[name] for name in state}
    return state, changes


def _adapt_stem(state: dict[str, Tensor], backbone: nn.Module, wanted: Mapping[str, Tensor]) -> list[str]:
    """Change the stem in place from 3 channels to 1 (the sum) or from 1 to 3 (a third each)."""
    changes = []
    for name in (f"{each}.weight" for each in _config_names(backbone, "first_conv")):
        if name not in state or name not in wanted or state[name].ndim != 4:
            continue
        n_found, n_wanted = state[name].shape[1], wanted[name].shape[1]
        if n_found == 3 * n_wanted:
            state[name] = adapt_input_conv(1, state[name])
            changes.append("stem: the sum over 3 channels")
        elif n_found == 1 and n_wanted == 3:
            state[name] = state[name].repeat(1, 3, 1, 1) / 3
            changes.append("stem: a third of its channel for each of 3 channels")
    return changes


def _resampled(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    changes = []
    for name, value in after.items():
        kind = next((RESAMPLED[end] for end in RESAMPLED if name.endswith(end)), None)
        old = before.get(name, before.get(NAMES_IN_CLIP.get(name, "")))
        if kind and old is not None and _side(old) != _side(value):
            a, b = _side(old), _side(value)
            changes.append(f"{kind} {a} x {a} resampled to {b} x {b}")
    return list(dict.fromkeys(changes))


def _side(value: Tensor) -> int:
    """Side of a kernel (n, channels, side, side), a grid (1, tokens, dim) or a table (positions, heads)."""
    return value.shape[-1] if value.ndim == 4 else math.isqrt(value.shape[-2])


def _same_kind(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.is_floating_point() == b.is_floating_point()


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _classifier(backbone: nn.Module) -> tuple[str, ...]:
    return tuple(f"{name}." for name in _config_names(backbone, "classifier"))


def _config_names(backbone: nn.Module, key: str) -> tuple[str, ...]:
    """Names of modules in timm's configuration: none, one or several."""
    names = cast(dict[str, Any], backbone.pretrained_cfg).get(key) or ()
    return (names,) if isinstance(names, str) else tuple(names)
