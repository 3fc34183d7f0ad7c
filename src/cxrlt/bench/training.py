"""Training and prediction against the bare network, and the memory of a training."""

from collections.abc import Iterator

from cxrlt.bench.rows import Row
from cxrlt.bench.setting import Setting


def train_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError


def memory_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError


def predict_rows(setting: Setting) -> Iterator[Row]:
    raise NotImplementedError
