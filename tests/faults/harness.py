"""Disturb a stage of a tiny challenge, start it again, and see that it ends as if nothing had happened."""

import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fault_client import Ended, ForkServer
from tiny_stages import after, command, contents, half_written, images_of, left_over, undisturbed

Fault = dict[str, object]
"""Fields of `Run`, or {"room": bytes that the disk has left}."""
ROOM = "room"


@dataclass
class Harness:
    """A server, and the root before each stage of an undisturbed run."""

    server: ForkServer
    folder: Path
    before: dict[str, Path]
    measured: dict[str, Ended] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "disturbed"

    @property
    def images(self) -> Path:
        return images_of(self.folder / "undisturbed")

    def alone(self, stage: str) -> Ended:
        """The stage with nothing happening to it: its seconds, its changes of files."""
        if stage not in self.measured:
            self.put_back(stage)
            self.measured[stage] = self.run(stage)
        return self.measured[stage]

    def put_back(self, stage: str) -> None:
        """Let the root be as it is before the stage."""
        self.root.mkdir(exist_ok=True)
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.before[stage], self.root, dirs_exist_ok=True)

    def command(self, stage: str) -> list[str]:
        return command(stage, self.root, self.images)

    def run(self, stage: str, **fault: object) -> Ended:
        return self.server.run(self.command(stage), root=str(self.root), **fault)

    def disturb(self, stage: str, fault: Fault) -> tuple[list[str], Ended]:
        """What is wrong right after it, and how it ended."""
        if ROOM in fault:
            with little_room(self.root, fault[ROOM]):
                ended = self.run(stage)
        else:
            ended = self.run(stage, **fault)
        half = half_written(self.root, self.before[stage], after(self.before, stage))
        wrong = [f"half-written: {name}" for name in half]
        if ended.code not in (0, -signal.SIGKILL) and not ended.is_sentence:
            wrong.append(f"ended with {ended.code}: {ended.output[-3000:]}")
        return wrong, ended

    def wrong_after(self, stage: str, faults: Sequence[Fault]) -> tuple[list[str], list[Ended]]:
        """What is wrong once `faults` disturbed the stage in turn and it was left alone; how each ended."""
        self.put_back(stage)
        disturbed = [self.disturb(stage, fault) for fault in faults]
        wrong = [one for wrongs, _ in disturbed for one in wrongs]
        last = self.run(stage)
        if last.code:
            wrong.append(f"started again it ends with {last.code}: {last.output[-2000:]}")
        expected, found = contents(after(self.before, stage)), contents(self.root)
        wrong += [f"differs: {name}" for name in sorted(expected) if expected[name] != found.get(name)]
        wrong += [f"left: {name}" for name in sorted(found.keys() - expected.keys())]
        wrong += [f"left over: {path.relative_to(self.root)}" for path in left_over(self.root)]
        return wrong, [ended for _, ended in disturbed]


@contextmanager
def started(folder: Path) -> Iterator[Harness]:
    with ForkServer() as server:
        yield Harness(server, folder, undisturbed(server, folder / "undisturbed"))


@contextmanager
def on_a_disk_of_its_own(found: Harness) -> Iterator[None]:
    """Let the root lie on a tmpfs, whose room `little_room` takes away. PermissionError where forbidden."""
    found.root.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "none", found.root], capture_output=True).returncode:
        raise PermissionError("mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", found.root], check=True)


@contextmanager
def little_room(root: Path, n_bytes: int) -> Iterator[None]:
    usage = shutil.disk_usage(root)
    subprocess.run(["mount", "-o", f"remount,size={usage.used + n_bytes}", root], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,size=2g", root], check=True)


def random_kill(alone: Ended, dice: random.Random) -> Fault:
    """At a random moment, or before a random change of a file, half of which is gone in half of the cases."""
    if dice.random() < 0.5:
        return {"after": dice.uniform(0, alone.seconds)}
    return {"at": dice.randrange(alone.n_events), "tear": dice.random() < 0.5}


def table_of(found: Harness, cases: Iterable[tuple[str, list[Fault]]]) -> bool:
    """Try all, print what is wrong and a table per stage. Returns whether nothing was."""
    tried, struck, survived = Counter(), Counter(), Counter()
    for stage, faults in cases:
        wrong, ends = found.wrong_after(stage, faults)
        tried[stage] += len(faults)
        struck[stage] += sum(end.code != 0 for end in ends)
        survived[stage] += 0 if wrong else len(faults)
        if wrong:
            strikes = [(fault, end.struck) for end, fault in zip(ends, faults, strict=True)]
            print(f"{stage}: {strikes}", *wrong, sep="\n    ", flush=True)
    print(f"{'stage':<16}{'tried':>8}{'struck':>8}{'survived':>10}")
    for stage in [*tried, "all"]:
        figures = [sum(c.values()) if stage == "all" else c[stage] for c in (tried, struck, survived)]
        print(f"{stage:<16}{figures[0]:>8}{figures[1]:>8}{figures[2]:>10}")
    return tried == survived
