"""Kill stages of a tiny challenge, start them again, and check that the results do not change.

    python tools/kill_stages.py --kills 100 --seed 0
    python tools/kill_stages.py --every-change --stage folds submit

Half of the kills come at a random time, half just before a file changes; in half of the latter the file is
truncated. A stage is killed one to three times before it runs to the end. `--every-change` instead kills once
before every change of a file.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

from harness import Fault, Harness, print_table, random_kill, start_harness
from tiny_stages import STAGES


def random_chains(
    harness: Harness, stages: Sequence[str], n: int, seed: int
) -> Iterator[tuple[str, list[Fault]]]:
    """Yield `n` kills, spread evenly over the stages, in sequences of one to three."""
    rng = random.Random(seed)
    while n > 0:
        for stage in stages:
            length = min(rng.randint(1, 3), n)
            if length:
                yield stage, [random_kill(harness.run_undisturbed(stage), rng) for _ in range(length)]
            n -= length


def every_change(harness: Harness, stages: Sequence[str], step: int) -> Iterator[tuple[str, list[Fault]]]:
    """Yield one kill before every `step`-th change of a file."""
    for stage in stages:
        for at in range(0, harness.run_undisturbed(stage).n_events, step):
            yield stage, [{"at": at, "tear": bool(at % 2)}]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-change", action="store_true")
    parser.add_argument("--step", type=int, default=1, help="kill only before every n-th change")
    parser.add_argument("--stage", nargs="+", default=list(STAGES), choices=STAGES)
    return parser.parse_args(argv)


def main() -> None:
    """Run the kills and print a table; exit code 1 if a result differs."""
    args = parse()
    with tempfile.TemporaryDirectory() as folder, start_harness(Path(folder)) as harness:
        cases = (
            every_change(harness, args.stage, args.step)
            if args.every_change
            else random_chains(harness, args.stage, args.kills, args.seed)
        )
        sys.exit(not print_table(harness, cases))


if __name__ == "__main__":
    main()
