"""What a backbone does with images of some size, found with as little computing as possible."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.Unfold)


@dataclass(frozen=True)
class FirstPass:
    """Shape of what a backbone makes of one image, and whether its last row or column has any influence."""

    shape: torch.Size
    sees_the_edge: bool


def first_pass(backbone: nn.Module, size: int, channels: int) -> FirstPass:
    """What an image shows of the backbone in eval mode. Raises what the backbone does if it cannot take it.

    A backbone on the meta device, as for a trial, sees no edge that its first layer leaves out.
    """
    image = torch.zeros(1, channels, size, size)
    passed: list[tuple[nn.Module, torch.Size, torch.Size]] = []  # layers, what they are given and return
    hooks = [
        layer.register_forward_hook(lambda *seen: passed.append((seen[0], seen[1][0].shape, seen[2].shape)))
        for layer in backbone.modules()
        if isinstance(layer, STRIDED)
    ]
    try:
        try:
            output = _evaluated(meta_copy(backbone), image.to("meta"))
        except Exception:  # too small an image, or a backbone that makes tensors elsewhere: see for real
            passed.clear()
            output = _evaluated(backbone, image)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, Tensor):
        raise TypeError(f"it returns a {type(output).__name__}")
    blind = [given for layer, given, returned in passed if _leaves_out(layer, given, returned)]
    if not blind:
        return FirstPass(output.shape, True)
    if next(backbone.parameters()).is_meta:
        seen = image.shape not in blind and _sees_the_edge(_of_zeros(backbone), image)
        return FirstPass(output.shape, seen)
    return FirstPass(output.shape, _sees_the_edge(backbone, image))


def needs_two_images(backbone: nn.Module, size: int, channels: int) -> bool:
    """Whether a BatchNorm would have one value per channel to train on if an image came alone."""
    if not any(isinstance(layer, _BatchNorm) for layer in backbone.modules()):
        return False
    image = torch.zeros(1, channels, size, size)
    try:
        return not _trains_on(meta_copy(backbone), image.to("meta"))
    except Exception:  # a backbone that makes tensors elsewhere
        with torch.random.fork_rng(devices=[]):
            return not _trains_on(copy.deepcopy(backbone).cpu(), image)


def meta_copy(module: nn.Module) -> nn.Module:
    """A copy without values, so that a pass through it costs nothing; shared parts are shared in it, too.

    A module that has none is its own copy.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.is_meta for tensor in tensors):
        return module
    return copy.deepcopy(module, {id(tensor): _without_values(tensor) for tensor in tensors})


def _of_zeros(backbone: nn.Module) -> nn.Module:
    """A copy of a backbone on the meta device that can compute."""
    copied = copy.deepcopy(backbone).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*copied.parameters(), *copied.buffers()]:
            tensor.zero_()
    return copied


def _sees_the_edge(backbone: nn.Module, image: Tensor) -> bool:
    """NaN passes through weights of 0, too, so that the weights do not matter."""
    image = torch.rand(image.shape, generator=torch.Generator().manual_seed(0), device="cpu")
    changed = image.clone()
    changed[..., -1, :] = changed[..., -1] = torch.nan
    return not torch.equal(_evaluated(backbone, image), _evaluated(backbone, changed))


def _without_values(tensor: Tensor) -> Tensor:
    empty = tensor.detach().to("meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _evaluated(backbone: nn.Module, images: Tensor) -> object:
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            return backbone(images)
    finally:
        backbone.train(was_training)


def _trains_on(backbone: nn.Module, images: Tensor) -> bool:
    try:
        with torch.no_grad():
            backbone.train()(images)
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        return False
    return True


def _leaves_out(layer: nn.Module, given: torch.Size, returned: torch.Size) -> bool:
    """Whether a layer ends before what it is given (n, d, h, w) does. One of 1 x 1 is a shortcut."""
    if len(given) != 4 or isinstance(layer.padding, str):  # "same"
        return False
    places = returned[2:] if len(returned) == 4 else (math.isqrt(returned[2]),) * 2  # nn.Unfold's in a row
    for axis in (0, 1):
        kernel, stride, padding, dilation = (
            value[axis] if isinstance(value, tuple | list) else value
            for value in (layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1))
        )
        last = (places[axis] - 1) * stride - padding + dilation * (kernel - 1)
        if kernel > 1 and last < given[2 + axis] - 1:
            return True
    return False
