"""Check the smallest backbone of every timm family with every head, at common and at unusual image sizes."""

import argparse
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import timm
import torch
from torch import Tensor

from cxrlt.errors import UserError
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.recipe import HeadConfig, ModelConfig

N_CLASSES = 3
MAX_COMPUTED_WEIGHTS = 8_000_000
"""Backbones with more weights are only checked for shapes (meta device)."""
SIZES = (224, 200, 96)
HEADS: dict[str, dict[str, object]] = {
    "linear": {},
    "cosine": {"head": {"name": "cosine"}},
    "average": {"pool": "average"},
    "ml_decoder": {"head": {"name": "ml_decoder", "dim": 32}},
    "csra": {"head": {"name": "csra"}},
}
NO_SUGGESTION = "Use another backbone."
SUGGESTION = re.compile(
    r"(?:Sizes that fit: (\d+)(?: and (\d+))?(?:, with )?|Use )(?:model\.(\w+)(?:\.name)? (\w+))?\.$"
)


@dataclass
class BackboneResult:
    """Results of one backbone: "works", "refused" or "WRONG" by (size, head), and the error messages."""

    backbone: str
    outcomes: dict[tuple[int, str], str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def smallest_backbone(family: str) -> str:
    """Return the model with the fewest weights, without timm's test models."""
    names = timm.list_models(module=family)
    return min([name for name in names if not name.startswith("test_")] or names, key=_n_weights)


def check(
    backbone: str, sizes: tuple[int, ...] = SIZES, heads: tuple[str, ...] = tuple(HEADS)
) -> BackboneResult:
    """Check that each head works on two images, or fails with a message whose suggestion works."""
    result = BackboneResult(backbone)
    device = "cpu" if _n_weights(backbone) <= MAX_COMPUTED_WEIGHTS else "meta"
    for size in sizes:
        features: dict[bool, Tensor] = {}
        for head in heads:
            cfg = ModelConfig(backbone=backbone, pretrained=False, **HEADS[head])
            try:
                with torch.device(device):
                    message = _try(cfg, size, features)
            except Exception:
                result.errors.append(f"{backbone} {size} {head}: {traceback.format_exc()}")
                result.outcomes[size, head] = "WRONG"
                continue
            result.outcomes[size, head] = "refused" if message else "works"
            if message and message not in result.messages:
                result.messages.append(message)
    works = "works" in result.outcomes.values()
    result.errors += [text for text in result.messages if works and text.endswith(NO_SUGGESTION)]
    return result


def _try(cfg: ModelConfig, size: int, features: dict[bool, Tensor]) -> str | None:
    """Return the error message, or None if the model works. `features` caches computed features."""
    try:
        model = create_model(cfg, N_CLASSES, size)
    except UserError as error:
        for other, image_size in _suggested_configs(cfg, size, str(error)):
            create_model(other, N_CLASSES, image_size)
        return str(error)
    if cfg.reads_map not in features:
        features[cfg.reads_map] = _features(model, size)
    if features[cfg.reads_map].is_meta:
        return None
    logits = model.without_backbone().eval()({"features": features[cfg.reads_map]})
    assert logits.shape == (2, N_CLASSES), f"logits {tuple(logits.shape)}"
    assert logits.isfinite().all(), "logits that are not finite"
    return None


def _features(model: XRayModel, size: int) -> Tensor:
    """Return the features of two images, and check that training and eval mode agree and use all pixels."""
    images = torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8)
    with torch.no_grad():
        trained = model.train().features(images)
        features = model.eval().features(images)
    assert trained.shape == features.shape, (
        f"{tuple(trained.shape)} in training mode, {tuple(features.shape)} in eval mode"
    )
    assert features.is_meta or _uses_last_pixels(model, images), (
        "the last row and column of pixels are not used"
    )
    return features


def _uses_last_pixels(model: XRayModel, images: Tensor) -> bool:
    other = images.float()
    other[..., -1, :] = other[..., -1] = torch.nan  # NaN also passes through weights of 0
    with torch.no_grad():
        return not torch.equal(model.features(images), model.features(other))


def _suggested_configs(cfg: ModelConfig, size: int, message: str) -> Iterator[tuple[ModelConfig, int]]:
    """Yield the configurations that an error message suggests. Raises ValueError if it suggests none."""
    if message.endswith(NO_SUGGESTION):
        return
    found = SUGGESTION.search(message)
    if not found:
        raise ValueError(f"no suggestion in: {message}")
    *sizes, name, value = found.groups()
    if name:
        cfg = cfg.model_copy(update={name: HeadConfig(name=value) if name == "head" else value})
    for image_size in [int(image_size) for image_size in sizes if image_size] or [size]:
        yield cfg, image_size


def _n_weights(name: str) -> int:
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    return sum(weight.numel() for weight in model.parameters())


def _report(result: BackboneResult, family: str) -> None:
    columns = [
        "".join({"works": "+", "refused": "-", "WRONG": "!"}[result.outcomes[size, head]] for head in HEADS)
        for size in sorted({size for size, _ in result.outcomes}, reverse=True)
    ]
    print(
        f"{family:26}{result.backbone:36}",
        *(f"{column:{len(HEADS) + 2}}" for column in columns),
        flush=True,
    )
    for message in result.messages:
        print(f"    {message}")
    for trace in result.errors:
        print(trace)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__} + works, - refused with a message whose suggestion works, ! wrong."
    )
    parser.add_argument(
        "names", nargs="*", help="families (modules of timm.models) or backbones (default: every family)"
    )
    return parser.parse_args(argv)


def main() -> None:
    """Print the results of all backbones; exit code 1 if one is wrong."""
    names = parse().names or timm.list_modules()
    print(f"{'family':26}{'backbone':36}", *(f"{size:<{len(HEADS) + 2}}" for size in SIZES))
    print(f"{'':62}", " ".join(HEADS))
    n_wrong = 0
    for name in names:
        torch.manual_seed(0)
        result = check(smallest_backbone(name) if name in timm.list_modules() else name)
        _report(result, name)
        n_wrong += len(result.errors)
    print(f"{len(names)} backbones, {n_wrong} wrong")
    sys.exit(n_wrong > 0)


if __name__ == "__main__":
    main()
