"""Tables, folds, submissions and the command itself at the size of CXR-LT 2024."""

from collections.abc import Iterator

from cxrlt.bench.growth import Growth
from cxrlt.bench.rows import Row
from cxrlt.bench.setting import Setting


def folds_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError


def folds_growth(setting: Setting) -> Growth:
    raise NotImplementedError


def table_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError


def table_growth(setting: Setting) -> Growth:
    raise NotImplementedError


def submit_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError


def submit_growth(setting: Setting) -> Growth:
    raise NotImplementedError


def help_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError
