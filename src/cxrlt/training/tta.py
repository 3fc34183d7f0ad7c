"""Test-time augmentation: which variants of an image are predicted, and how their logits become one."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.challenges.base import Task
from cxrlt.recipe import TTAConfig

NO_TTA = TTAConfig(flip=False)
"""Every image as it is, once."""
SATURATED = 15.0
"""Logit from which on -log(sigmoid(x)) is exp(-x) to float32's precision."""
SMALL = 1e-3
"""Below it log(1 - exp(-a)) is log(a) - a / 2 to float32's precision."""


def only_as_they_are(tta: TTAConfig) -> bool:
    """Whether the set holds nothing but the image itself."""
    return not (tta.flip or tta.scales or tta.crop)


def describe_tta(tta: TTAConfig) -> str:
    """The set in words: "none", "flip", "flip, scales 0.9 1.1, crops 0.875, merged as probabilities"."""
    if only_as_they_are(tta):
        return "none"
    words = ["flip"] if tta.flip else []
    if tta.scales:
        words.append(f"scales {' '.join(f'{scale:g}' for scale in tta.scales)}")
    if tta.crop:
        words.append(f"crops {tta.crop:g}")
    if tta.merge != "logits":
        words.append(f"merged as {'geometric means' if tta.merge == 'geometric' else tta.merge}")
    return ", ".join(words)


def variants(images: Tensor, tta: TTAConfig) -> Iterator[Tensor]:
    """The images (..., h, w) of any leading shape, then each variant of the set, in the same shape and dtype.

    What lies outside the image is black (0). With `flip` the mirror image follows each of them.
    """
    for window in _windows(images, tta):
        yield window
        if tta.flip:
            yield window.flip(-1)


def merge_logits(logits: Tensor, how: str, task: Task) -> Tensor:
    """One logit (..., c) from those of k variants (k, ..., c), in float32 and finite for any finite logits.

    logits: their mean. probabilities: the logit of the mean probability. geometric: the logit of the
    geometric mean of p, p alone, not renormalised with 1 - p. With one class per row the probabilities are
    a softmax's, and their logarithms come back, in the geometric case up to a constant per row.
    """
    logits = logits.float()
    if how == "logits":
        return logits.mean(0)
    if task == "single_label":
        log_p = logits.log_softmax(-1)
        return log_p.mean(0) if how == "geometric" else _log_mean(log_p)
    if how == "probabilities":
        return _log_mean(F.logsigmoid(logits)) - _log_mean(F.logsigmoid(-logits))
    return _logit_of_geometric_mean(logits)


def _windows(images: Tensor, tta: TTAConfig) -> Iterator[Tensor]:
    height, width = images.shape[-2:]
    yield images
    for scale in tta.scales:
        yield _zoomed(images, scale)
    if tta.crop:
        high, wide = _centred(height, tta.crop), _centred(width, tta.crop)
        bottom, right = height - high, width - wide
        for top, left in ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)):
            yield _resized(images[..., top : top + high, left : left + wide], height, width)


def _zoomed(images: Tensor, scale: float) -> Tensor:
    """The central 1 / scale of the image for scale > 1; the whole of it inside a black border below 1."""
    height, width = images.shape[-2:]
    share = min(scale, 1 / scale)
    high, wide = _centred(height, share), _centred(width, share)
    top, left = (height - high) // 2, (width - wide) // 2
    if scale > 1:
        return _resized(images[..., top : top + high, left : left + wide], height, width)
    return F.pad(_resized(images, high, wide), (left, left, top, top))


def _centred(side: int, share: float) -> int:
    """About share * side, and as odd or even as it, so that the centre stays the centre."""
    return max(side - 2 * round(side * (1 - share) / 2), 1)


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    planes = images.reshape(-1, 1, *images.shape[-2:]).float()
    planes = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    if not images.is_floating_point():
        planes = planes.round()
    return planes.to(images.dtype).reshape(*images.shape[:-2], height, width)


def _log_mean(logs: Tensor) -> Tensor:
    """log(mean(exp(logs))) over the first dimension."""
    return logs.logsumexp(0) - math.log(len(logs))


def _logit_of_geometric_mean(logits: Tensor) -> Tensor:
    """-a - log(1 - exp(-a)), a = mean of -log(p), with log(a) where a itself underflows."""
    costs = -F.logsigmoid(logits)
    log_costs = torch.where(logits > SATURATED, -logits, costs.log())
    a, log_a = costs.mean(0), _log_mean(log_costs)
    log_rest = torch.where(a < SMALL, log_a - a / 2, (-torch.expm1(-a)).log())
    return -a - log_rest
