"""Test-time augmentation (TTA): variants of an image, and how their logits are merged."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlt.challenges.base import Task
from cxrlt.recipe import TTAConfig

NO_TTA = TTAConfig(flip=False)
"""One prediction of the original image."""
SATURATED_LOGIT = 15.0
"""Above this logit, -log(sigmoid(x)) equals exp(-x) in float32: the relative error exp(-x) / 2 is 1.5e-7."""
SMALL_COST = 1e-3
"""Below this value, log(1 - exp(-a)) equals log(a) - a / 2 in float32: the error a^2 / 24 is 4e-8."""


def is_identity(tta: TTAConfig) -> bool:
    """Return whether the only variant is the original image."""
    return not (tta.flip or tta.scales or tta.crop)


def describe_tta(tta: TTAConfig) -> str:
    """Return a text: "none", "flip", or "flip, scales 0.9 1.1, crops 0.875, merged as probabilities"."""
    if is_identity(tta):
        return "none"
    words = ["flip"] if tta.flip else []
    if tta.scales:
        words.append(f"scales {' '.join(f'{scale:g}' for scale in tta.scales)}")
    if tta.crop:
        words.append(f"crops {tta.crop:g}")
    if tta.merge != "logits":
        words.append(f"merged as {'geometric means' if tta.merge == 'geometric' else tta.merge}")
    return ", ".join(words)


def tta_variants(images: Tensor, tta: TTAConfig) -> Iterator[Tensor]:
    """Yield the images (..., height, width), then each variant in the same shape and dtype.

    Pixels outside the image are black (0). With `flip`, each variant is followed by its mirror image.
    """
    for variant in _unflipped_variants(images, tta):
        yield variant
        if tta.flip:
            yield variant.flip(-1)


def n_variants(tta: TTAConfig) -> int:
    """Return the number of forward passes per image."""
    return sum(1 for _ in tta_variants(torch.zeros(1, 1, 8, 8), tta))


def merge_logits(logits: Tensor, method: str, task: Task) -> Tensor:
    """Merge the logits (n_variants, ..., n_classes) into (..., n_classes), float32, finite for finite logits.

    Methods: "logits" is the mean logit, "probabilities" the logit of the mean probability, "geometric" the
    logit of the geometric mean of p, without renormalising by 1 - p. With one class per row, probabilities
    are those of a softmax, and the result is their logarithm ("geometric": up to a constant per row).
    """
    logits = logits.float()
    if method == "logits":
        return logits.mean(0)
    if task == "single_label":
        log_p = logits.log_softmax(-1)
        return log_p.mean(0) if method == "geometric" else _log_mean(log_p)
    if method == "probabilities":
        return _log_mean(F.logsigmoid(logits)) - _log_mean(F.logsigmoid(-logits))
    return _logit_of_geometric_mean(logits)


def _unflipped_variants(images: Tensor, tta: TTAConfig) -> Iterator[Tensor]:
    height, width = images.shape[-2:]
    yield images
    for scale in tta.scales:
        yield _zoom(images, scale)
    if tta.crop:
        crop_height, crop_width = _central_side(height, tta.crop), _central_side(width, tta.crop)
        bottom, right = height - crop_height, width - crop_width
        for top, left in ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)):
            yield _resize(images[..., top : top + crop_height, left : left + crop_width], height, width)


def _zoom(images: Tensor, scale: float) -> Tensor:
    """Return the central 1 / scale of the image if scale > 1, else the whole image inside a black border."""
    height, width = images.shape[-2:]
    share = min(scale, 1 / scale)
    crop_height, crop_width = _central_side(height, share), _central_side(width, share)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    if scale > 1:
        return _resize(images[..., top : top + crop_height, left : left + crop_width], height, width)
    return F.pad(_resize(images, crop_height, crop_width), (left, left, top, top))


def _central_side(side: int, share: float) -> int:
    """Return about share * side, odd or even as `side` is, so that the centre does not move."""
    return max(side - 2 * round(side * (1 - share) / 2), 1)


def _resize(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    planes = images.reshape(-1, 1, *images.shape[-2:]).float()
    planes = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    if not images.is_floating_point():
        planes = planes.round()
    return planes.to(images.dtype).reshape(*images.shape[:-2], height, width)


def _log_mean(logs: Tensor) -> Tensor:
    """Return log(mean(exp(logs))) over the first dimension."""
    return logs.logsumexp(0) - math.log(len(logs))


def _logit_of_geometric_mean(logits: Tensor) -> Tensor:
    """Return -a - log(1 - exp(-a)) with a = mean of -log(p), computed from log(a) if a underflows."""
    costs = -F.logsigmoid(logits)
    log_costs = torch.where(logits > SATURATED_LOGIT, -logits, costs.log())
    a, log_a = costs.mean(0), _log_mean(log_costs)
    log_rest = torch.where(a < SMALL_COST, log_a - a / 2, (-torch.expm1(-a)).log())
    return -a - log_rest
