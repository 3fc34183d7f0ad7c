"""Grad-CAM: which places of an image raise the logit of a class.

Selvaraju et al., ICCV 2017, eq. 1 and 2: the feature map is weighted by the mean gradient of each channel,
and negative sums are set to 0.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cxrlt.models.backbone import XRayModel
from cxrlt.models.feature_layout import infer_layout


def heat_map(model: XRayModel, image: Tensor, class_index: int) -> Tensor | None:
    """Return the map of one class for one image uint8 (channels, height, width): float32 (side, side).

    The values are from 0 to 1; all 0 if no place raises the logit. None if the backbone has no square feature
    map, or if its head does not read it (a class token). For models of single images, in eval mode.
    """
    backbone = model.backbone
    assert backbone is not None, "a model without backbone has no image"
    with torch.enable_grad(), _captured_features(backbone) as captured:
        logits = model.predict({"images": image[None]})
    (features,) = captured
    try:
        layout = infer_layout(backbone, features.shape, None)
    except ValueError:
        return None
    (gradient,) = torch.autograd.grad(logits[0, class_index], features)
    tokens, slopes = layout.features(features)[0], layout.features(gradient)[0]
    if not slopes.any():
        return None
    heat = (tokens * slopes.mean(0)).sum(1).clamp(min=0).detach().float()
    side = math.isqrt(len(heat))
    return (heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)).reshape(side, side)


@contextmanager
def _captured_features(backbone: Any) -> Iterator[list[Tensor]]:
    """Give a list that receives the feature map of the forward pass in the block, with a gradient."""
    captured: list[Tensor] = []
    compute = backbone.forward_features

    def forward_features(*args: Any, **kwargs: Any) -> Tensor:
        captured.append(compute(*args, **kwargs).requires_grad_())
        return captured[-1]

    backbone.forward_features = forward_features
    try:
        yield captured
    finally:
        del backbone.forward_features  # the method of the class is visible again
