"""All benchmarks: every stage against the usual tool, and its time at growing sizes."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import evaluation, images, memory, tables, training
from benchmarks.config import BenchmarkConfig
from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement
from benchmarks.report import HEADER, format_machine, format_measurement, format_scaling
from benchmarks.scaling import ScalingResult
from cxrlt.system.atomic_files import write_json

QUICK_SCALE = 0.02
"""Scale of the sizes with --quick."""


@dataclass(frozen=True)
class Benchmark:
    """`measure` compares the stage with baselines; `measure_scaling` measures it at growing sizes."""

    measure: Callable[[BenchmarkConfig], Iterator[Measurement]]
    measure_scaling: Callable[[BenchmarkConfig], ScalingResult] | None = None


BENCHMARKS: dict[str, Benchmark] = {
    "cache": Benchmark(images.measure_cache, images.measure_cache_scaling),
    "loader": Benchmark(images.measure_loader),
    "train": Benchmark(training.measure_train),
    "memory": Benchmark(memory.measure_memory),
    "metrics": Benchmark(evaluation.measure_metrics, evaluation.measure_metrics_scaling),
    "bootstrap": Benchmark(evaluation.measure_bootstrap, evaluation.measure_bootstrap_scaling),
    "ensemble": Benchmark(evaluation.measure_ensemble, evaluation.measure_ensemble_scaling),
    "folds": Benchmark(tables.measure_folds, tables.measure_folds_scaling),
    "table": Benchmark(tables.measure_table, tables.measure_table_scaling),
    "submit": Benchmark(tables.measure_submit, tables.measure_submit_scaling),
    "predict": Benchmark(training.measure_predict),
    "help": Benchmark(tables.measure_help),
}


def run_benchmarks(
    names: Sequence[str], folder: Path, *, quick: bool, scaling: bool, json_path: Path | None
) -> bool:
    """Measure the stages `names` (empty: all) and print every result at once.

    Temporary files are in a subfolder of `folder`, which is removed at the end. `json_path` receives the
    results, also if a stage fails. Returns whether every result equals the baseline's where it should.
    """
    machine, results = describe_machine(), []
    print(format_machine(machine))
    if not scaling:
        print(HEADER)
    try:
        for result in _measure(names or tuple(BENCHMARKS), folder, QUICK_SCALE if quick else 1.0, scaling):
            results.append(result)
            print(
                *(
                    format_scaling(result)
                    if isinstance(result, ScalingResult)
                    else format_measurement(result)
                ),
                sep="\n",
                flush=True,
            )
    finally:
        if json_path is not None:
            write_json(json_path, {"machine": machine, "quick": quick} | _to_json(results))
    return not any(row.error for row in results if isinstance(row, Measurement))


def _measure(
    names: Sequence[str], folder: Path, scale: float, scaling: bool
) -> Iterator[Measurement | ScalingResult]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        stage = BENCHMARKS[name]
        if scaling and stage.measure_scaling is None:
            continue
        print(f"bench: {name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="cxrlt-bench-", dir=folder) as temporary:
            config = BenchmarkConfig(Path(temporary), scale)
            if scaling:
                yield stage.measure_scaling(config)
            else:
                yield from stage.measure(config)


def _to_json(results: Sequence[Measurement | ScalingResult]) -> dict[str, list[dict]]:
    rows = [result for result in results if isinstance(result, Measurement)]
    scalings = [result for result in results if isinstance(result, ScalingResult)]
    properties = ("ratio", "meets_target", "share_of_limit")
    return {
        "rows": [asdict(row) | {name: getattr(row, name) for name in properties} for row in rows],
        "scaling": [asdict(result) | {"exponent": result.exponent} for result in scalings],
    }
