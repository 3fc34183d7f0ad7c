"""Many requests to a disk at a time: on a network disk asking is all waiting."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

N_THREADS = 16
Item, Result = TypeVar("Item"), TypeVar("Result")


@contextmanager
def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], block: int
) -> Iterator[Iterator[Result]]:
    """The results in order; each thread takes `block` items at a time, for handing one over costs, too.

    Leaving the block drops what is not begun, or Ctrl-C would wait for all of it.
    """
    blocks = (items[at : at + block] for at in range(0, len(items), block))
    pool = ThreadPoolExecutor(N_THREADS)
    try:
        yield chain.from_iterable(pool.map(lambda some: list(map(function, some)), blocks))
    finally:
        pool.shutdown(cancel_futures=True)
