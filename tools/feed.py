"""Feed damaged files to a reader until the time is up, and report what came of them.

    python tools/feed.py table --minutes 10
    python tools/feed.py submission --minutes 10
    python tools/feed.py yaml --minutes 10

tests/fuzz/engine.py says what a failure is. Its file and traceback are kept in --keep, and the program ends
with 1. The same --seed and --cases give the same cases.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzz.engine import TARGETS, fuzz


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cases", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    return parser.parse_args(words)


def main() -> None:
    flags = parse()
    with contextlib.suppress(KeyboardInterrupt):
        report = fuzz(flags.target, flags.seed, flags.minutes, flags.cases, flags.keep)
        print(report)
        sys.exit(bool(report.failures))


if __name__ == "__main__":
    main()
