"""Transfer of weights from another run into a model."""

from torch import Tensor, nn

from cxrlt.errors import UserError, listing
from cxrlt.models.backbone import XRayModel
from cxrlt.models.checkpoint_layouts import apply_timm_filter

PARTS = ("fusion", "head")


def load_weights(
    model: XRayModel, tensors: dict[str, Tensor], *, same_classes: bool, source: str
) -> list[str]:
    """Load a run's tensors into `model`; return the parts that were not loaded ("fusion", "head").

    `tensors` are those of weights.safetensors: name -> tensor of any shape. All tensors of the backbone
    must fit; timm resizes position embeddings for another image size. Fusion and head are loaded if all of
    their tensors exist with the same shapes, the head only with `same_classes`. The logit scale is not
    loaded, as it belongs to the loss. Raises UserError with `source` if the weights are of another backbone.
    """
    if model.backbone is not None:
        _load_backbone(model.backbone, _select_part(tensors, "backbone"), source)
    new_parts = []
    for name in PARTS:
        part, state = getattr(model, name), _select_part(tensors, name)
        if part is None:
            continue
        if _shapes(part.state_dict()) == _shapes(state) and (same_classes or name != "head"):
            part.load_state_dict(state)
        else:
            new_parts.append(name)
    return new_parts


def _load_backbone(backbone: nn.Module, state: dict[str, Tensor], source: str) -> None:
    wanted = _shapes(backbone.state_dict())
    if any(key in wanted and wanted[key] != shape for key, shape in _shapes(state).items()):
        state = apply_timm_filter(state, backbone)
    # the other run may have kept timm's pool, which this model does not have
    children = tuple(f"{name}." for name, _ in backbone.named_children())
    found = {key: shape for key, shape in _shapes(state).items() if key in wanted or key.startswith(children)}
    if wanted != found:
        wrong = [key for key in wanted | found if wanted.get(key) != found.get(key)]
        fix = "Use the same model.backbone, model.options and a challenge with the same number of channels."
        if all(_differs_in_channels(wanted.get(key, ()), found.get(key, ())) for key in wrong):
            fix = (
                "One stem has three channels, the other has one. Use the same model.pretrained, model.mean "
                "and model.std (they decide it for grey images), and a challenge with the same number of "
                "channels."
            )
        raise UserError(
            f"{source}: {len(wrong)} tensors do not fit this run's backbone ({listing(wrong, 3)}). {fix}"
        )
    backbone.load_state_dict({key: state[key] for key in wanted})


def _differs_in_channels(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Return whether two kernels (out, in, height, width) differ only in their 1 or 3 input channels."""
    return a[:1] + a[2:] == b[:1] + b[2:] and {*a[1:2], *b[1:2]} == {1, 3}


def _select_part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}
