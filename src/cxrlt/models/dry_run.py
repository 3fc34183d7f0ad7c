"""What a backbone does with images of some size, found with as little computing as possible."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class FirstPass:
    """Shape of what a backbone makes of one image, and whether a layer on the way leaves out an end."""

    shape: torch.Size
    ends_early: bool


def first_pass(backbone: nn.Module, size: int, channels: int) -> FirstPass:
    """What the backbone makes of one image in eval mode. Raises what it does if it cannot take the image."""
    ends_early: list[bool] = []

    def look(layer: nn.Module, args: tuple, output: object) -> None:
        ends_early.append(_leaves_out(layer, args, output))

    layers = [layer for layer in backbone.modules() if hasattr(layer, "kernel_size")]
    hooks = [layer.register_forward_hook(look) for layer in layers]
    image = torch.zeros(1, channels, size, size)
    try:
        try:
            output = _evaluated(meta_copy(backbone), image.to("meta"))
        except Exception:  # too small an image, or a backbone that makes tensors elsewhere: see for real
            output = _evaluated(backbone, image)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, Tensor):
        raise TypeError(f"it returns a {type(output).__name__}")
    return FirstPass(output.shape, any(ends_early))


def sees_the_edge(backbone: nn.Module, size: int, channels: int) -> bool:
    """Whether the last row or the last column of an image has any influence on the output.

    NaN passes through weights of 0, too, so that the weights of the day do not decide. On the meta device,
    where nothing is computed, the answer is no.
    """
    if next(backbone.parameters()).is_meta:
        return False
    image = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    changed = image.clone()
    changed[..., -1, :] = changed[..., -1] = torch.nan
    return not torch.equal(_evaluated(backbone, image), _evaluated(backbone, changed))


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
    """A copy without values, so that a pass through it costs nothing; shared parts are shared in it, too."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): _without_values(tensor) for tensor in tensors})


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


def _leaves_out(layer: nn.Module, args: tuple, output: object) -> bool:
    """Whether a convolution or pool (n, d, h, w) ends before its input does. One of 1 x 1 is a shortcut."""
    if not (args and isinstance(output, Tensor) and args[0].ndim == output.ndim == 4):
        return False
    if isinstance(layer.padding, str):  # "same"
        return False
    for axis in (0, 1):
        kernel, stride, padding, dilation = (
            value[axis] if isinstance(value, tuple | list) else value
            for value in (layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1))
        )
        last = (output.shape[2 + axis] - 1) * stride - padding + dilation * (kernel - 1)
        if kernel > 1 and last < args[0].shape[2 + axis] - 1:
            return True
    return False
