"""Run stages of a tiny challenge on a full disk, then with free space, and check the results.

    python tools/full_disk.py refused
    python tools/full_disk.py file-size --stage submit
    python tools/full_disk.py tmpfs

refused: a write and all later ones fail with ENOSPC, for every n-th write. file-size: the kernel limits the
file size, for several limits. tmpfs: the disk has little free space, for several sizes (needs root).
Every run must end with one error message and exit code 2, and succeed when started again with free space.
"""

import argparse
import errno
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

from harness import DISK_SPACE, Fault, Harness, on_tmpfs, print_table, start_harness
from tiny_stages import STAGES

FILE_SIZES = (0, 1, 64, 100, 500, 1000, 2000, 4095, 4096, 8192, 16384, 50_000, 100_000, 150_000, 200_000)
DISK_SPACES = tuple(
    4096 * pages for pages in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
)


def refused(harness: Harness, stages: Sequence[str], step: int) -> Iterator[tuple[str, list[Fault]]]:
    """Yield faults that refuse a write and all later ones."""
    for stage in stages:
        harness.restore(stage)
        n_events = harness.run(stage, fail=errno.ENOSPC).n_events
        for at in range(0, n_events, step):
            yield stage, [{"at": at, "fail": errno.ENOSPC}]


def ladder(
    field: str, steps: Sequence[int], harness: Harness, stages: Sequence[str]
) -> Iterator[tuple[str, list[Fault]]]:
    """Yield faults with growing limits of `field`."""
    for stage in stages:
        for step in steps:
            yield stage, [{field: step}]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("way", choices=("refused", "file-size", "tmpfs"))
    parser.add_argument("--step", type=int, default=1, help="refused: test only every n-th write")
    parser.add_argument("--stage", nargs="+", default=list(STAGES), choices=STAGES)
    return parser.parse_args(argv)


def main() -> None:
    """Run the cases and print a table; exit code 1 if one fails."""
    args = parse()
    with (
        tempfile.TemporaryDirectory() as folder,
        start_harness(Path(folder)) as harness,
        on_tmpfs(harness) if args.way == "tmpfs" else nullcontext(),
    ):
        cases = {
            "refused": lambda: refused(harness, args.stage, args.step),
            "file-size": lambda: ladder("file_size", FILE_SIZES, harness, args.stage),
            "tmpfs": lambda: ladder(DISK_SPACE, DISK_SPACES, harness, args.stage),
        }[args.way]()
        sys.exit(not print_table(harness, cases))


if __name__ == "__main__":
    main()
