"""Pretrained weights of other projects: read without running code, and loaded whole or refused."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cxrlt.errors import UserError, listing
from cxrlt.models.checkpoint_fit import AVERAGED, COUNTER, Fit, best_fit, flatten, wanted_tensors
from cxrlt.models.timm_logging import quiet_timm

COMMON_MODELS = (
    (r"\.bn1\.", "resnet18 resnet34 resnet50 resnet101 resnet152 seresnet50 resnext50_32x4d"),
    ("denseblock", "densenet121 densenet169 densenet201"),
    (
        "relative_position",
        "swin_tiny_patch4_window7_224 swin_small_patch4_window7_224 "
        "swin_base_patch4_window7_224 swin_large_patch4_window12_384",
    ),
    ("conv_dw|pwconv", "convnext_tiny convnext_small convnext_base convnext_large convnextv2_base"),
    (r"mlp\.w3|fc1_g", "eva02_tiny_patch14_224 eva02_small_patch14_224 eva02_base_patch14_224"),
    (r"ls1\.gamma|lambda1", "vit_small_patch14_dinov2 vit_base_patch14_dinov2 vit_large_patch14_dinov2"),
    ("reg(ister)?_token", "vit_base_patch14_reg4_dinov2 vit_large_patch14_reg4_dinov2"),
    ("storage_tokens", "vit_small_patch16_dinov3 vit_base_patch16_dinov3 vit_large_patch16_dinov3"),
    ("class_embedding", "vit_base_patch32_clip_quickgelu_224 vit_base_patch16_clip_quickgelu_224"),
    (r"\.(qkv|query)\.", "vit_small_patch16_224 vit_base_patch16_224 vit_large_patch16_224"),
)
"""Parts of the names in a checkpoint, and timm models that it may be of."""
N_SIMILAR = 8
"""Number of models of the same family that are tried for a suggestion: creating one takes 0.1 s."""
N_SUGGESTED = 3
"""Most models that an error suggests."""


class _Ignored:
    """Stands for an object in a pickle whose value is not needed, so that no code of its own runs."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


IGNORED_GLOBALS: list[Any] = [
    (_Ignored, name)
    for name in (
        "argparse.Namespace",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
    )
]
"""Options and numbers beside the weights: only tensors are used, so a placeholder is enough."""


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """`state`: name -> tensor with the shape in the backbone, float32 and finite, without classifier.

    `notes`: lines for the user about what was chosen, changed or left out.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...]


def read_checkpoint(path: Path) -> object:
    """Return the content of a safetensors file, or of a file of torch.save without running its code.

    Numpy values and argparse.Namespace beside the tensors become placeholders. Raises UserError if the file
    is damaged or holds other Python objects.
    """
    try:
        with path.open("rb") as file:
            is_safetensors = path.suffix == ".safetensors" or file.read(9)[8:] == b"{"
        if is_safetensors:
            return load_file(path)
        with torch.serialization.safe_globals(IGNORED_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and safetensors raise different errors
        # only the first sentence: the rest of torch's message says how to execute the file
        reason = " ".join(str(error).split()).split(". ")[0]
        fix = "use a file with tensors only, such as model.safetensors"
        if objects := _python_objects(path):
            reason = f"it holds Python objects: {listing(objects, 3)}"
            fix += ", or convert it as docs/pretrained.md shows"
        raise UserError(f"{path} has no weights that can be read safely ({reason}): {fix}.") from error


def convert_checkpoint(content: object, backbone: nn.Module, source: str) -> ConvertedCheckpoint:
    """Convert the content of a checkpoint to all tensors of a timm model, without its classifier.

    Removes wrappers and one common prefix, converts the layouts of other projects, then runs timm's own
    conversion. A stem of 3 channels becomes one of 1 (the sum) or the reverse (a third each). Raises
    UserError, beginning with `source`, unless every tensor of the backbone is there with its shape and
    finite, and all other tensors are of known parts such as heads and text encoders.
    """
    tensors = flatten(content)
    if not tensors:
        keys = f"its keys: {listing(content)}" if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"{source} has no dict of tensors ({keys}): use a file with the weights of a model.")
    fit = best_fit(tensors, backbone)
    if not fit.is_whole:
        raise UserError(f"{source} {_explain_misfit(fit, tensors, backbone)}.")
    for name, value in fit.state.items():
        if problem := _find_problem(name, value):
            raise UserError(f"{source} is damaged, tensor {name} {problem}: use another copy of the file.")
    state = {name: value.float() if value.is_floating_point() else value for name, value in fit.state.items()}
    own = {name: value for name, value in wanted_tensors(backbone).items() if name not in state}
    return ConvertedCheckpoint(state | own, tuple(_notes(fit)))  # own: batch counters, which old files lack


def _find_problem(name: str, value: Tensor) -> str | None:
    if not value.is_floating_point() or not value.numel():
        return None
    low, high = (bound.item() for bound in torch.aminmax(value.float()))
    if not math.isfinite(low + high):
        return "has NaN or infinite values"
    if name.endswith("running_var") and (low < 0 or high == 0):
        return "has variances that are negative or all 0"
    if name.endswith(".weight") and value.ndim > 1 and value.numel() > 1 and low == high:
        return f"is {low:g} everywhere"
    return None


def _notes(fit: Fit) -> Iterator[str]:
    if fit.prefix:
        why = " (averaged weights are preferred)" if AVERAGED.search(fit.prefix) else ""
        yield f"the tensors of {fit.prefix[:-1]} are used{why}"
    yield from fit.changes
    for dtype in {value.dtype for value in fit.state.values() if value.is_floating_point()} - {torch.float32}:
        yield f"{str(dtype).removeprefix('torch.')} is converted to float32"
    if fit.extras:
        groups = Counter(name.split(".")[0] for name in fit.extras)
        yield f"not used: {listing(f'{group} ({n})' for group, n in groups.items())}"


def _explain_misfit(fit: Fit, tensors: Mapping[str, Tensor], backbone: nn.Module) -> str:
    names = [name for name in wanted_tensors(backbone) if not name.endswith(COUNTER)]
    counts = f"{len(names) - len(fit.missing)} of {len(names)} tensors matched"
    below = f" below {fit.prefix[:-1]}" if fit.prefix else ""
    lists = [
        f"{what}: {listing(each)}"
        for what, each in (("missing", fit.missing), ("without a place", fit.unknown))
        if each
    ]
    models = fitting_models(tensors, backbone)
    fix = (
        f"set model.backbone to {' or '.join(models)}, whose names and shapes do fit, or use another file"
        if models
        else "use weights of this backbone, or the backbone of these weights"
    )
    return f"does not fit {_architecture(backbone)} ({counts}{below}; {'; '.join(lists)}): {fix}"


def fitting_models(tensors: Mapping[str, Tensor], backbone: nn.Module | None = None) -> list[str]:
    """Return timm models into which the tensors (any shape) fit whole, those without resampling first.

    Common models are tried, and those with a name similar to that of `backbone`.
    """
    keys = " ".join(tensors)
    likely = [name for part, names in COMMON_MODELS if re.search(part, keys) for name in names.split()]
    similar = _similar_models(backbone) if backbone else []
    shapes = {value.shape for value in tensors.values()}
    n_changes = {}
    for name in dict.fromkeys(likely + similar):
        model = _create_meta_model(name)
        values = model.state_dict().values() if model else ()
        if model and 2 * sum(value.shape in shapes for value in values) > len(values):
            fit = best_fit(tensors, model)
            if fit.is_whole:
                n_changes[name] = len(fit.changes)
    return sorted(n_changes, key=n_changes.__getitem__)[:N_SUGGESTED]


def _similar_models(backbone: nn.Module) -> list[str]:
    family = timm.list_models(module=type(backbone).__module__.split(".")[-1])
    return get_close_matches(_architecture(backbone), family, N_SIMILAR, cutoff=0)


@cache
def _create_meta_model(name: str) -> nn.Module | None:
    with suppress(Exception), torch.device("meta"), quiet_timm():  # a few models cannot be created there
        return timm.create_model(name, pretrained=False)
    return None


def _architecture(backbone: nn.Module) -> str:
    return cast(dict[str, Any], backbone.pretrained_cfg)["architecture"]


def _python_objects(path: Path) -> list[str]:
    with (
        suppress(Exception),
        torch.serialization.safe_globals(IGNORED_GLOBALS),
    ):  # only zip files can be listed
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return []
