"""Every stage against what people use instead, and how cost grows with size."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import evaluation, images, memory, tables, training
from benchmarks.growth import Growth
from benchmarks.machine import describe_machine
from benchmarks.report import HEADER, growth_lines, machine_line, row_lines
from benchmarks.rows import Row
from benchmarks.setting import Setting
from cxrlt.system.atomic_files import write_json

QUICK = 0.02
"""The share of the full sizes that --quick measures."""


@dataclass(frozen=True)
class Benchmark:
    """`rows` measures it against alternatives, `growth` at several sizes where its cost grows with them."""

    rows: Callable[[Setting], Iterator[Row]]
    growth: Callable[[Setting], Growth] | None = None


BENCHMARKS: dict[str, Benchmark] = {
    "cache": Benchmark(images.cache_rows, images.cache_growth),
    "loader": Benchmark(images.loader_rows),
    "train": Benchmark(training.train_rows),
    "memory": Benchmark(memory.memory_rows),
    "metrics": Benchmark(evaluation.metrics_rows, evaluation.metrics_growth),
    "bootstrap": Benchmark(evaluation.bootstrap_rows, evaluation.bootstrap_growth),
    "ensemble": Benchmark(evaluation.ensemble_rows, evaluation.ensemble_growth),
    "folds": Benchmark(tables.folds_rows, tables.folds_growth),
    "table": Benchmark(tables.table_rows, tables.table_growth),
    "submit": Benchmark(tables.submit_rows, tables.submit_growth),
    "predict": Benchmark(training.predict_rows),
    "help": Benchmark(tables.help_rows),
}


def bench(names: Sequence[str], folder: Path, *, quick: bool, scaling: bool, json_path: Path | None) -> bool:
    """Measure the stages `names` (none: all of them) and print a line as soon as it is known.

    Files are written into a folder of their own below `folder`, which goes when all is done. `json_path` gets
    the figures, and those there are if a stage fails. Returns whether every result is equal to the
    alternative's where it should be.
    """
    machine, found = describe_machine(), []
    print(machine_line(machine))
    if not scaling:
        print(HEADER)
    try:
        for one in _measured(names or tuple(BENCHMARKS), folder, QUICK if quick else 1.0, scaling):
            found.append(one)
            print(*(growth_lines(one) if isinstance(one, Growth) else row_lines(one)), sep="\n", flush=True)
    finally:
        if json_path is not None:
            write_json(json_path, {"machine": machine, "quick": quick} | _plain(found))
    return not any(row.wrong for row in found if isinstance(row, Row))


def _measured(names: Sequence[str], folder: Path, share: float, scaling: bool) -> Iterator[Row | Growth]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        stage = BENCHMARKS[name]
        if scaling and stage.growth is None:
            continue
        print(f"bench: {name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="cxrlt-bench-", dir=folder) as temporary:
            setting = Setting(Path(temporary), share)
            if scaling:
                yield stage.growth(setting)
            else:
                yield from stage.rows(setting)


def _plain(found: Sequence[Row | Growth]) -> dict[str, list[dict]]:
    rows = [one for one in found if isinstance(one, Row)]
    growths = [one for one in found if isinstance(one, Growth)]
    derived = ("ratio", "reached", "share_of_limit")
    return {
        "rows": [asdict(row) | {name: getattr(row, name) for name in derived} for row in rows],
        "growth": [asdict(one) | {"exponent": one.exponent} for one in growths],
    }
