"""timm's log lines and warnings for its own developers, which do not concern users of cxrlt."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOGGED = {
    "timm.scheduler.cosine_lr": "Cosine annealing scheduler will have no effect",  # a run of one update
    "timm.models._builder": "Unexpected keys .* found while loading pretrained weights",  # its classifier
}
"""Beginnings of lines by the logger that writes them."""
WARNED = "Mapping deprecated model name"


@contextmanager
def without_chatter() -> Iterator[None]:
    """Within it timm's lines of LOGGED and WARNED are left out, and no others."""
    filters = {logging.getLogger(name): _unless(pattern) for name, pattern in LOGGED.items()}
    for logger, keep in filters.items():
        logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", WARNED)
            yield
    finally:
        for logger, keep in filters.items():
            logger.removeFilter(keep)


def _unless(pattern: str) -> Callable[[logging.LogRecord], bool]:
    unwanted = re.compile(pattern)
    return lambda record: not unwanted.match(record.getMessage())
