"""Kill every stage of a tiny challenge, start it again, and see that it ends as if nothing had happened.

    python tools/kill.py --kills 100 --seed 0
    python tools/kill.py --every-change --stage folds submit

Half of the kills come at a random moment of a stage, half just before a change of a file, every other of them
with half of that file gone. A stage is killed one to three times before it is left alone. `--every-change`
instead kills once before each change that a stage makes.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

from harness import Fault, Harness, random_kill, started, table_of
from tiny_stages import STAGES


def random_chains(
    found: Harness, stages: Sequence[str], n: int, seed: int
) -> Iterator[tuple[str, list[Fault]]]:
    """`n` kills, evenly over the stages, in chains of one to three."""
    dice = random.Random(seed)
    while n > 0:
        for stage in stages:
            length = min(dice.randint(1, 3), n)
            if length:
                yield stage, [random_kill(found.alone(stage), dice) for _ in range(length)]
            n -= length


def every_change(found: Harness, stages: Sequence[str], step: int) -> Iterator[tuple[str, list[Fault]]]:
    for stage in stages:
        for at in range(0, found.alone(stage).n_events, step):
            yield stage, [{"at": at, "tear": bool(at % 2)}]


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-change", action="store_true")
    parser.add_argument("--step", type=int, default=1, help="only before every so manieth change")
    parser.add_argument("--stage", nargs="+", default=list(STAGES), choices=STAGES)
    return parser.parse_args(words)


def main() -> None:
    asked = parse()
    with tempfile.TemporaryDirectory() as folder, started(Path(folder)) as found:
        cases = (
            every_change(found, asked.stage, asked.step)
            if asked.every_change
            else random_chains(found, asked.stage, asked.kills, asked.seed)
        )
        sys.exit(not table_of(found, cases))


if __name__ == "__main__":
    main()
