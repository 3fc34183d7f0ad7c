"""What to take instead where a backbone, a size, a pool and a head do not go together."""

from collections.abc import Callable, Iterator

import timm

from cxrlt.recipe import FusionConfig, ModelConfig

REACH = 64
"""How many pixels from the size that was asked for others are looked for."""
SMALLEST = 32

Fits = Callable[[ModelConfig, int], bool]
"""Whether a model can be created at a size in pixels."""


def what_fits(cfg: ModelConfig, size: int, fits: Fits) -> str:
    """A sentence that names the nearest sizes that do fit, and with what pool or head, each of them tried."""
    for other, choice in _alternatives(cfg):
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
    elif cfg.head in ("ml_decoder", "csra"):
        yield cfg.model_copy(update={"head": "linear", "grid": None}), "model.head linear"
    elif cfg.pool == "backbone":
        yield cfg.model_copy(update={"pool": "average"}), "model.pool average"
    else:
        yield cfg.model_copy(update={"pool": "backbone", "grid": None}), "model.pool backbone"


def _sizes_near(cfg: ModelConfig, size: int, fits: Fits) -> list[int]:
    """The nearest that fits below, and the nearest above; if there is none near, timm's own."""
    known = timm.get_pretrained_cfg(cfg.backbone)
    own = known.input_size[-1] if known else size
    if own != size and not fits(cfg, own):
        return []
    near = [_nearest(cfg, size, direction, fits) for direction in (-1, 1)]
    return [side for side in near if side is not None] or [own] * (own != size)


def _nearest(cfg: ModelConfig, size: int, direction: int, fits: Fits) -> int | None:
    sides = [size + direction * step for step in range(1, REACH + 1) if size + direction * step >= SMALLEST]
    # one by one only where there is something to be found
    likely = [side for step, side in enumerate(sides, 1) if step < 4 or side % 16 == 0 or side % 14 == 0]
    if not any(fits(cfg, side) for side in likely):
        return None
    return next(side for side in sides if fits(cfg, side))
