"""Fuzz a reader with damaged files for some minutes, and report the failures.

    python tools/fuzz_readers.py table --minutes 10
    python tools/fuzz_readers.py submission --minutes 10
    python tools/fuzz_readers.py yaml --minutes 10

tests/fuzz/engine.py defines a failure. The file and traceback of a failure are saved in --keep, and the exit
code is 1. The same --seed and --cases give the same cases.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzz.engine import TARGETS, fuzz


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cases", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    return parser.parse_args(argv)


def main() -> None:
    """Fuzz and print the report; exit code 1 if there is a failure."""
    args = parse()
    with contextlib.suppress(KeyboardInterrupt):
        report = fuzz(args.target, args.seed, args.minutes, args.cases, args.keep)
        print(report)
        sys.exit(bool(report.failures))


if __name__ == "__main__":
    main()
