"""Dry runs of a backbone: its output shape for an image size, mostly on the meta device without computing."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

StridedLayer = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.Unfold


@dataclass(frozen=True)
class DryRun:
    """The output shape of a backbone for one image, and whether the last row and column affect the output."""

    shape: torch.Size
    sees_last_pixels: bool


def dry_run(backbone: nn.Module, size: int, channels: int) -> DryRun:
    """Pass one image of `size` x `size` pixels through the backbone in eval mode.

    Raises the backbone's own error if the size does not fit, and TypeError if its output is not a tensor. For
    a backbone on the meta device, pixels that its first layer skips are never seen.
    """
    image = torch.zeros(1, channels, size, size)
    calls: list[tuple[StridedLayer, torch.Size, torch.Size]] = []  # layer, input shape, output shape
    hooks = [
        layer.register_forward_hook(lambda *call: calls.append((call[0], call[1][0].shape, call[2].shape)))
        for layer in backbone.modules()
        if isinstance(layer, StridedLayer)
    ]
    try:
        try:
            output = _eval_forward(meta_copy(backbone), image.to("meta"))
        except Exception:  # too small an image, or a backbone that creates CPU tensors: run it without meta
            calls.clear()
            output = _eval_forward(backbone, image)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, Tensor):
        raise TypeError(f"its output is a {type(output).__name__}, not a tensor")
    skipping = [before for layer, before, after in calls if _skips_last_pixels(layer, before, after)]
    if not skipping:
        return DryRun(output.shape, True)
    if next(backbone.parameters()).is_meta:
        sees = image.shape not in skipping and _sees_last_pixels(_zeros_copy(backbone), image)
        return DryRun(output.shape, sees)
    return DryRun(output.shape, _sees_last_pixels(backbone, image))


def needs_two_images(backbone: nn.Module, size: int, channels: int) -> bool:
    """Return whether a BatchNorm has only one value per channel for one image, and so cannot train on it."""
    if not any(isinstance(layer, _BatchNorm) for layer in backbone.modules()):
        return False
    image = torch.zeros(1, channels, size, size)
    try:
        return not _can_train_on(meta_copy(backbone), image.to("meta"))
    except Exception:  # a backbone that creates CPU tensors
        with torch.random.fork_rng(devices=[]):
            return not _can_train_on(copy.deepcopy(backbone).cpu(), image)


def meta_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the meta device, which computes nothing; shared modules stay shared.

    A module that is on the meta device is returned itself.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.is_meta for tensor in tensors):
        return module
    return copy.deepcopy(module, {id(tensor): _to_meta(tensor) for tensor in tensors})


def _zeros_copy(backbone: nn.Module) -> nn.Module:
    """Return a CPU copy of a backbone on the meta device, with zeros for weights."""
    copied = copy.deepcopy(backbone).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*copied.parameters(), *copied.buffers()]:
            tensor.zero_()
    return copied


def _sees_last_pixels(backbone: nn.Module, image: Tensor) -> bool:
    """Return whether NaN in the last row and column changes the output, even with weights of 0."""
    image = torch.rand(image.shape, generator=torch.Generator().manual_seed(0), device="cpu")
    changed = image.clone()
    changed[..., -1, :] = changed[..., -1] = torch.nan
    return not torch.equal(_eval_forward(backbone, image), _eval_forward(backbone, changed))


def _to_meta(tensor: Tensor) -> Tensor:
    empty = tensor.detach().to("meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _eval_forward(backbone: nn.Module, images: Tensor) -> Any:
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            return backbone(images)
    finally:
        backbone.train(was_training)


def _can_train_on(backbone: nn.Module, images: Tensor) -> bool:
    try:
        with torch.no_grad():
            backbone.train()(images)
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        return False
    return True


def _skips_last_pixels(layer: StridedLayer, input_shape: torch.Size, output_shape: torch.Size) -> bool:
    """Return whether a layer skips the last pixels of its input (n, c, h, w); 1 x 1 kernels do not count."""
    if len(input_shape) != 4 or isinstance(layer.padding, str):  # "same"
        return False
    # nn.Unfold returns (n, c, h * w)
    output_size = output_shape[2:] if len(output_shape) == 4 else (math.isqrt(output_shape[2]),) * 2
    for axis in (0, 1):
        kernel, stride, padding, dilation = (
            value[axis] if isinstance(value, tuple | list) else value
            for value in (layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1))
        )
        last = (output_size[axis] - 1) * stride - padding + dilation * (kernel - 1)
        if kernel > 1 and last < input_shape[2 + axis] - 1:
            return True
    return False
