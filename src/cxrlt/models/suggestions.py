"""Suggestions for a model whose backbone, image size, pool and head do not fit together."""

from collections.abc import Callable, Iterator

import timm

from cxrlt.recipe import FusionConfig, HeadConfig, ModelConfig

MAX_SIZE_DIFFERENCE = 64
"""Largest difference in pixels between the requested size and a suggested size."""
MIN_SIZE = 32
"""Smallest suggested size in pixels: the total stride of most backbones."""

FitsCheck = Callable[[ModelConfig, int], bool]
"""A function that returns whether a model can be created for a size in pixels."""


def suggest_fix(cfg: ModelConfig, size: int, fits: FitsCheck, never_fits: bool = False) -> str:
    """Return a sentence that suggests near sizes, or another pool or head; every suggestion has been tried.

    `never_fits`: `cfg` does not fit at any size.
    """
    for alternative, change in _alternatives(cfg):
        if alternative is cfg and never_fits:
            continue
        if alternative is not cfg and fits(alternative, size):
            return f"Use {change}."
        sizes = _near_sizes(alternative, size, fits)
        if sizes:
            return f"Sizes that fit: {' and '.join(map(str, sizes))}{f', with {change}' if change else ''}."
    return "Use another backbone."


def _alternatives(cfg: ModelConfig) -> Iterator[tuple[ModelConfig, str]]:
    """Yield the config itself, then others, each with a text of the changed field."""
    yield cfg, ""
    if cfg.fusion.max_images > 1:
        yield cfg.model_copy(update={"fusion": FusionConfig()}), "model.fusion.max_images 1"
    elif cfg.head.reads_map:
        yield cfg.model_copy(update={"head": HeadConfig(), "grid": None}), "model.head.name linear"
    elif cfg.pool == "backbone":
        yield cfg.model_copy(update={"pool": "average"}), "model.pool average"
    else:
        yield cfg.model_copy(update={"pool": "backbone", "grid": None}), "model.pool backbone"


def _near_sizes(cfg: ModelConfig, size: int, fits: FitsCheck) -> list[int]:
    """Return the next smaller and larger size that fit; if there are none, the pretrained size."""
    pretrained_cfg = timm.get_pretrained_cfg(cfg.backbone)
    pretrained_size = pretrained_cfg.input_size[-1] if pretrained_cfg else size
    if pretrained_size != size and not fits(cfg, pretrained_size):
        return []
    sizes = [
        next((near for near in _candidate_sizes(size, direction) if fits(cfg, near)), None)
        for direction in (-1, 1)
    ]
    return [found for found in sizes if found is not None] or [pretrained_size] * (pretrained_size != size)


def _candidate_sizes(size: int, direction: int) -> Iterator[int]:
    """Yield smaller or larger sizes, nearest first: multiples of 8 and 14, and those within 3 pixels."""
    for difference in range(1, MAX_SIZE_DIFFERENCE + 1):
        candidate = size + direction * difference
        if candidate >= MIN_SIZE and (difference <= 3 or candidate % 8 == 0 or candidate % 14 == 0):
            yield candidate
