"""Run many small file operations in parallel threads: on a network disk most of their time is waiting."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

N_THREADS = 16
"""More than CPU cores, as threads mostly wait for the disk."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def map_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], block: int
) -> Iterator[Iterator[Result]]:
    """Apply `function` to `items` in threads: a context manager that gives an iterator over ordered results.

    A task is a `block` of items, as each task has a cost. Leaving the context cancels the tasks that have not
    started; otherwise Ctrl-C would wait for all of them.
    """
    blocks = (items[at : at + block] for at in range(0, len(items), block))
    pool = ThreadPoolExecutor(N_THREADS)
    try:
        yield chain.from_iterable(pool.map(lambda part: list(map(function, part)), blocks))
    finally:
        pool.shutdown(cancel_futures=True)
