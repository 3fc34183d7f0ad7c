"""Run a stage with faults, start it again, and compare its files with those of an undisturbed run."""

import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fault_client import ForkServer, RunResult
from tiny_stages import (
    command,
    file_hashes,
    images_folder,
    leftover_files,
    partial_files,
    root_after,
    run_all_stages,
)

Fault = dict[str, object]
"""Fields of `Run`, or {"room": free bytes of the disk}."""
DISK_SPACE = "room"


@dataclass
class Harness:
    """A fork server, and the root folder before each stage of an undisturbed run."""

    server: ForkServer
    folder: Path
    before: dict[str, Path]
    measured: dict[str, RunResult] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "disturbed"

    @property
    def images(self) -> Path:
        return images_folder(self.folder / "undisturbed")

    def run_undisturbed(self, stage: str) -> RunResult:
        """Run the stage without a fault (once), to know its seconds and its number of file changes."""
        if stage not in self.measured:
            self.restore(stage)
            self.measured[stage] = self.run(stage)
        return self.measured[stage]

    def restore(self, stage: str) -> None:
        """Restore the root folder to its state before the stage."""
        self.root.mkdir(exist_ok=True)
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.before[stage], self.root, dirs_exist_ok=True)

    def command(self, stage: str) -> list[str]:
        return command(stage, self.root, self.images)

    def run(self, stage: str, **fault: object) -> RunResult:
        return self.server.run(self.command(stage), root=str(self.root), **fault)

    def disturb(self, stage: str, fault: Fault) -> tuple[list[str], RunResult]:
        """Run the stage with a fault. Return the problems directly after it, and the result."""
        if DISK_SPACE in fault:
            with limited_space(self.root, fault[DISK_SPACE]):
                ended = self.run(stage)
        else:
            ended = self.run(stage, **fault)
        half = partial_files(self.root, self.before[stage], root_after(self.before, stage))
        problems = [f"half-written: {name}" for name in half]
        if ended.code not in (0, -signal.SIGKILL) and not ended.is_user_error:
            problems.append(f"ended with {ended.code}: {ended.output[-3000:]}")
        return problems, ended

    def problems_after(self, stage: str, faults: Sequence[Fault]) -> tuple[list[str], list[RunResult]]:
        """Run the stage with each fault, then without. Return the problems, and the results with faults."""
        self.restore(stage)
        disturbed = [self.disturb(stage, fault) for fault in faults]
        problems = [one for wrongs, _ in disturbed for one in wrongs]
        last = self.run(stage)
        if last.code:
            problems.append(f"without a fault it ends with {last.code}: {last.output[-2000:]}")
        expected, found = file_hashes(root_after(self.before, stage)), file_hashes(self.root)
        problems += [f"differs: {name}" for name in sorted(expected) if expected[name] != found.get(name)]
        problems += [f"additional file: {name}" for name in sorted(found.keys() - expected.keys())]
        problems += [f"temporary file: {path.relative_to(self.root)}" for path in leftover_files(self.root)]
        return problems, [ended for _, ended in disturbed]


@contextmanager
def start_harness(folder: Path) -> Iterator[Harness]:
    with ForkServer() as server:
        yield Harness(server, folder, run_all_stages(server, folder / "undisturbed"))


@contextmanager
def on_tmpfs(harness: Harness) -> Iterator[None]:
    """Mount a tmpfs on the root folder, for `limited_space`. Raises PermissionError if not allowed."""
    harness.root.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "none", harness.root], capture_output=True).returncode:
        raise PermissionError("mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", harness.root], check=True)


@contextmanager
def limited_space(root: Path, n_bytes: int) -> Iterator[None]:
    usage = shutil.disk_usage(root)
    subprocess.run(["mount", "-o", f"remount,size={usage.used + n_bytes}", root], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,size=2g", root], check=True)


def random_kill(undisturbed: RunResult, dice: random.Random) -> Fault:
    """Return a kill at a random time, or before a random file change (file truncated in half of these)."""
    if dice.random() < 0.5:
        return {"after": dice.uniform(0, undisturbed.seconds)}
    return {"at": dice.randrange(undisturbed.n_events), "tear": dice.random() < 0.5}


def print_table(harness: Harness, cases: Iterable[tuple[str, list[Fault]]]) -> bool:
    """Run all cases, print the problems and a table per stage. Return whether there were no problems."""
    runs, with_fault, survived = Counter(), Counter(), Counter()
    for stage, faults in cases:
        problems, ends = harness.problems_after(stage, faults)
        runs[stage] += len(faults)
        with_fault[stage] += sum(end.code != 0 for end in ends)
        survived[stage] += 0 if problems else len(faults)
        if problems:
            strikes = [(fault, end.fault_event) for end, fault in zip(ends, faults, strict=True)]
            print(f"{stage}: {strikes}", *problems, sep="\n    ", flush=True)
    print(f"{'stage':<16}{'runs':>8}{'faults':>8}{'survived':>10}")
    for stage in [*runs, "all"]:
        figures = [sum(c.values()) if stage == "all" else c[stage] for c in (runs, with_fault, survived)]
        print(f"{stage:<16}{figures[0]:>8}{figures[1]:>8}{figures[2]:>10}")
    return runs == survived
