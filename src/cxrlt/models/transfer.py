"""A model that starts from the weights of another run."""

import sys

from torch import Tensor, nn

from cxrlt.errors import UserError, listing
from cxrlt.models.backbone import XRayModel

PARTS = ("fusion", "head")


def load_weights(
    model: XRayModel, tensors: dict[str, Tensor], *, same_classes: bool, source: str
) -> list[str]:
    """Load what fits of a run's weights.safetensors; returns the parts left as they are, of "fusion", "head".

    The backbone, where the model has one, must fit entirely; what timm resizes for another image size is
    resized (position embeddings). Fusion and head are loaded each if all of their tensors are there in the
    same shapes, the head only with `same_classes`. The logit scale is left alone: it belongs to the loss.
    Raises UserError, naming `source`, for another backbone's weights.
    """
    if model.backbone is not None:
        _load_backbone(model, _part(tensors, "backbone"), source)
    left_new = []
    for name in PARTS:
        part, state = getattr(model, name), _part(tensors, name)
        if part is None:
            continue
        if _shapes(part.state_dict()) == _shapes(state) and (same_classes or name != "head"):
            part.load_state_dict(state)
        else:
            left_new.append(name)
    return left_new


def _load_backbone(model: XRayModel, state: dict[str, Tensor], source: str) -> None:
    wanted = _shapes(model.backbone.state_dict())
    if any(key in wanted and wanted[key] != shape for key, shape in _shapes(state).items()):
        state = _resized(model.backbone, state)
    # a pool of the backbone's own, which this model does without, may be there
    children = tuple(f"{name}." for name, _ in model.backbone.named_children())
    found = {key: shape for key, shape in _shapes(state).items() if key in wanted or key.startswith(children)}
    if wanted != found:
        wrong = [key for key in wanted | found if wanted.get(key) != found.get(key)]
        raise UserError(
            f"{source}: {len(wrong)} tensors are not those of this run's backbone ({listing(wrong, 3)}). "
            "Set model.backbone and the challenge's channels as they were there."
        )
    model.backbone.load_state_dict({key: state[key] for key in wanted})


def _resized(backbone: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As timm does it with pretrained weights, by a function beside the architecture."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    try:
        return dict(convert(state, backbone)) if convert else state
    except (AssertionError, KeyError, RuntimeError, ValueError):  # not this architecture's
        return state


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}
