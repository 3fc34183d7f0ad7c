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
    own = timm.get_pretrained_cfg(cfg.backbone).input_size[-1]
    if own != size and not fits(cfg, own):
        return []
    below = next(
        (side for side in range(size - 1, max(size - REACH, SMALLEST) - 1, -1) if fits(cfg, side)), None
    )
    above = next((side for side in range(size + 1, size + REACH + 1) if fits(cfg, side)), None)
    near = [side for side in (below, above) if side is not None]
    return near or [own]
