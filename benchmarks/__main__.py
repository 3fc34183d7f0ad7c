"""`bash run.sh bench`: the command line of the benchmarks."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.bench import BENCHMARKS, bench
from benchmarks.gpu import check_gpu
from cxrlt.artifacts import Workspace, expand_home
from cxrlt.errors import UserError, listing
from cxrlt.spelling import did_you_mean


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags. Raises UserError for a stage that there is not."""
    parser = argparse.ArgumentParser(
        prog="bash run.sh bench",
        description="Measure every stage against what people use instead: rates, ratios, targets, limits.",
        epilog=f"Stages: {', '.join(BENCHMARKS)}.",
    )
    parser.add_argument("stages", nargs="*", help="which stages (default: all of them)")
    parser.add_argument(
        "--quick", action="store_true", help="2 %% of the sizes: a minute or two, rougher figures"
    )
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="instead: the cost of a stage at n, 2n, 4n and 8n, and the exponent of its growth",
    )
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="instead: what only a GPU shows, in about ten minutes; exit code 1 where a part fails",
    )
    parser.add_argument("--json", type=Path, help="write the figures into this file too")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Workspace(Path(os.environ.get("CXRLT_ROOT", "."))).cache_dir(),
        help="where files are written and removed afterwards; some 10 GB (default: %(default)s)",
    )
    flags = parser.parse_args(words)
    flags.folder, flags.json = expand_home(flags.folder), flags.json and expand_home(flags.json)
    for name in flags.stages:
        if name not in BENCHMARKS:
            known = listing(BENCHMARKS, len(BENCHMARKS))
            raise UserError(f"There is no stage {name}{did_you_mean(name, BENCHMARKS)}. Known: {known}.")
    return flags


def main(words: Sequence[str] | None = None) -> None:
    """Exit code 1 where a result differs from the alternative's or a GPU check fails, 2 for user errors."""
    try:
        flags = parse(words)
        if flags.gpu:
            passed = check_gpu(flags.folder, flags.json, torch.device("cuda"))
            sys.exit(None if passed else "bench: a part of --gpu failed")
        options = {"quick": flags.quick, "scaling": flags.scaling, "json_path": flags.json}
        equal = bench(flags.stages, flags.folder, **options)
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
    if not equal:
        sys.exit("bench: a result differs from the one it was measured against")


if __name__ == "__main__":
    main()
