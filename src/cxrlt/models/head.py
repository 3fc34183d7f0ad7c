"""The cosine head, which margin losses such as LDAM are made for."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineLinear(nn.Module):
    """Features (n, d) to the cosines of each row with each class's weight vector: (n, c) in [-1, 1].

    Computed in float32 under any autocast: LDAM multiplies these by 30, and bfloat16 has three digits.
    """

    bias: None = None

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(F.normalize(torch.randn(out_features, in_features)))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(F.normalize(features.float(), eps=1e-6), F.normalize(self.weight, eps=1e-6))


def use_cosine_head(backbone: nn.Module) -> None:
    """Put a CosineLinear in the place of a timm model's classifier. Raises ValueError if it is not Linear."""
    classifier = backbone.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise ValueError(f"its classifier is {type(classifier).__name__}, not Linear")
    name = next(name for name, module in backbone.named_modules() if module is classifier)
    backbone.set_submodule(name, CosineLinear(classifier.in_features, classifier.out_features))
