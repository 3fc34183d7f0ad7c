"""From files to batches: building the cache, and the training loader."""

from collections.abc import Iterator

from cxrlt.bench.growth import Growth
from cxrlt.bench.rows import Row
from cxrlt.bench.setting import Setting


def cache_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError


def cache_growth(setting: Setting) -> Growth:
    raise NotImplementedError


def loader_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError
