"""Metrics, bootstrap and ensemble search against scikit-learn."""

from collections.abc import Iterator

from cxrlt.bench.growth import Growth
from cxrlt.bench.rows import Row
from cxrlt.bench.setting import Setting


def metrics_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError


def metrics_growth(setting: Setting) -> Growth:
    raise NotImplementedError


def bootstrap_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError


def bootstrap_growth(setting: Setting) -> Growth:
    raise NotImplementedError


def ensemble_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError


def ensemble_growth(setting: Setting) -> Growth:
    raise NotImplementedError
