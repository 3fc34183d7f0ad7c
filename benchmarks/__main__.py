"""`bash run.sh bench`: the command line of the benchmarks."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu import check_gpu
from benchmarks.peers import compare_peers
from benchmarks.run_benchmarks import BENCHMARKS, run_benchmarks
from cxrlt.artifacts import Workspace, expand_home
from cxrlt.errors import UserError, listing
from cxrlt.spelling import did_you_mean

PEERS = "peers"
"""The first word of the command that compares a recipe with a notebook."""


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed flags. Raises UserError for an unknown stage."""
    parser = argparse.ArgumentParser(
        prog="bash run.sh bench",
        description="Compare the speed of every stage with the usual tool and with a theoretical limit.",
        epilog=f"Stages: {', '.join(BENCHMARKS)}. Instead of a stage: {PEERS} compares a recipe with a "
        f"competition notebook, on real images (bash run.sh bench {PEERS} --help).",
    )
    parser.add_argument("stages", nargs="*", help="stages to measure (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="2 %% of the full sizes: one or two minutes, less exact"
    )
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="instead: the time of a stage at n, 2n, 4n and 8n, and the exponent of its growth",
    )
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="instead: run the GPU checks (about ten minutes); exit code 1 if a check fails",
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Workspace(Path(os.environ.get("CXRLT_ROOT", "."))).cache_dir(),
        help="folder for temporary files, about 10 GB (default: %(default)s)",
    )
    flags = parser.parse_args(words)
    flags.folder, flags.json = expand_home(flags.folder), flags.json and expand_home(flags.json)
    for name in flags.stages:
        if name not in BENCHMARKS:
            known = listing(BENCHMARKS, len(BENCHMARKS))
            raise UserError(
                f"There is no stage {name}{did_you_mean(name, BENCHMARKS)}. The stages are: {known}."
            )
    return flags


def main(words: Sequence[str] | None = None) -> None:
    """Run the benchmarks. Exit code 1 if a result is wrong or a check fails, 2 for user errors."""
    try:
        words = sys.argv[1:] if words is None else words
        if list(words[:1]) == [PEERS]:
            compare_peers.main(words[1:])
            return
        flags = parse(words)
        if flags.gpu:
            passed = check_gpu(flags.folder, flags.json, torch.device("cuda"))
            sys.exit(None if passed else "bench: a GPU check failed")
        options = {"quick": flags.quick, "scaling": flags.scaling, "json_path": flags.json}
        equal = run_benchmarks(flags.stages, flags.folder, **options)
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
    if not equal:
        sys.exit("bench: a result differs from the result of its baseline")


if __name__ == "__main__":
    main()
