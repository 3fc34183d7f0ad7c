"""Filter for log lines and warnings of timm that do not concern users of cxrlt."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IGNORED_LOG_LINES = {
    "timm.scheduler.cosine_lr": "Cosine annealing scheduler will have no effect",  # in a run of one update
    "timm.models._builder": "Unexpected keys .* found while loading pretrained weights",  # the old classifier
}
"""Logger name -> regular expression for the beginning of the line."""
IGNORED_WARNING = "Mapping deprecated model name"


@contextmanager
def quiet_timm() -> Iterator[None]:
    """Context manager that hides timm's IGNORED_LOG_LINES and IGNORED_WARNING, and no others."""
    filters = {logging.getLogger(name): _reject(pattern) for name, pattern in IGNORED_LOG_LINES.items()}
    for logger, keep in filters.items():
        logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", IGNORED_WARNING)
            yield
    finally:
        for logger, keep in filters.items():
            logger.removeFilter(keep)


def _reject(pattern: str) -> Callable[[logging.LogRecord], bool]:
    ignored = re.compile(pattern)
    return lambda record: not ignored.match(record.getMessage())
