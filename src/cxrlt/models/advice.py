"""What to take instead where a backbone, a size, a pool and a head do not go together."""

from collections.abc import Callable, Iterator

import timm

from cxrlt.recipe import FusionConfig, HeadConfig, ModelConfig

REACH = 64
"""How many pixels from the size that was asked for others are looked for."""
SMALLEST = 32

Fits = Callable[[ModelConfig, int], bool]
"""Whether a model can be created at a size in pixels."""


def what_fits(cfg: ModelConfig, size: int, fits: Fits, at_any_size: bool = False) -> str:
    """A sentence that names sizes near that do fit, or another pool or head, each of which has been tried.

    `at_any_size`: `cfg` itself does not fit at any size.
    """
    for other, choice in _alternatives(cfg):
        if other is cfg and at_any_size:
            continue
        if other is not cfg and fits(other, size):
            return f"Take {choice}."
        sizes = _sizes_near(other, size, fits)
        if sizes:
            return f"Sizes that fit: {' and '.join(map(str, sizes))}{f', with {choice}' if choice else ''}."
    return "Take another backbone."


def _alternatives(cfg: ModelConfig) -> Iterator[tuple[ModelConfig, str]]:
    """The recipe itself, then others with what they change."""
    yield cfg, ""
    if cfg.fusion.max_images > 1:
        yield cfg.model_copy(update={"fusion": FusionConfig()}), "model.fusion.max_images 1"
    elif cfg.head.reads_map:
        yield cfg.model_copy(update={"head": HeadConfig(), "grid": None}), "model.head.name linear"
    elif cfg.pool == "backbone":
        yield cfg.model_copy(update={"pool": "average"}), "model.pool average"
    else:
        yield cfg.model_copy(update={"pool": "backbone", "grid": None}), "model.pool backbone"


def _sizes_near(cfg: ModelConfig, size: int, fits: Fits) -> list[int]:
    """One that fits below, and one above; if there is none near, timm's own."""
    known = timm.get_pretrained_cfg(cfg.backbone)
    own = known.input_size[-1] if known else size
    if own != size and not fits(cfg, own):
        return []
    near = [
        next((side for side in _likely(size, direction) if fits(cfg, side)), None) for direction in (-1, 1)
    ]
    return [side for side in near if side is not None] or [own] * (own != size)


def _likely(size: int, direction: int) -> Iterator[int]:
    """Sizes on one side, the nearest first: multiples of 8 and 14, or 1 to 3 pixels away."""
    for step in range(1, REACH + 1):
        side = size + direction * step
        if side >= SMALLEST and (step <= 3 or side % 8 == 0 or side % 14 == 0):
            yield side
