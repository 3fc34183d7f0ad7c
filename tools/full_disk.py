"""Let the disk refuse what a stage of a tiny challenge writes, then give it room, and see that all ends well.

    python tools/full_disk.py refused
    python tools/full_disk.py file-size --stage submit
    python tools/full_disk.py tmpfs

refused: every n-th new or changed file is refused with ENOSPC, and all after it. file-size: the kernel takes
no more than so many bytes of a file, over a ladder of sizes. tmpfs: the disk has so much room left (needs the
right to mount). Each must end in one sentence and exit code 2, and started again as if nothing had happened.
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

from harness import ROOM, Fault, Harness, on_a_disk_of_its_own, started, table_of
from tiny_stages import STAGES

FILE_SIZES = (0, 1, 64, 100, 500, 1000, 2000, 4095, 4096, 8192, 16384, 50_000, 100_000, 150_000, 200_000)
ROOMS = tuple(4096 * pages for pages in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256))


def refused(found: Harness, stages: Sequence[str], step: int) -> Iterator[tuple[str, list[Fault]]]:
    for stage in stages:
        found.put_back(stage)
        n_events = found.run(stage, fail=errno.ENOSPC).n_events
        for at in range(0, n_events, step):
            yield stage, [{"at": at, "fail": errno.ENOSPC}]


def ladder(
    field: str, steps: Sequence[int], found: Harness, stages: Sequence[str]
) -> Iterator[tuple[str, list[Fault]]]:
    for stage in stages:
        for step in steps:
            yield stage, [{field: step}]


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("way", choices=("refused", "file-size", "tmpfs"))
    parser.add_argument("--step", type=int, default=1, help="refused: only every so manieth")
    parser.add_argument("--stage", nargs="+", default=list(STAGES), choices=STAGES)
    return parser.parse_args(words)


def main() -> None:
    asked = parse()
    with (
        tempfile.TemporaryDirectory() as folder,
        started(Path(folder)) as found,
        on_a_disk_of_its_own(found) if asked.way == "tmpfs" else nullcontext(),
    ):
        cases = {
            "refused": lambda: refused(found, asked.stage, asked.step),
            "file-size": lambda: ladder("file_size", FILE_SIZES, found, asked.stage),
            "tmpfs": lambda: ladder(ROOM, ROOMS, found, asked.stage),
        }[asked.way]()
        sys.exit(not table_of(found, cases))


if __name__ == "__main__":
    main()
