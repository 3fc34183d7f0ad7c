"""Fuzzing of the readers with damaged files.

Every case must end with success or a UserError, within SECONDS and MEMORY, and an accepted file must have the
values that Python's csv module reads. Anything else is a failure.
"""

import random
import re
import resource
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cxrlt.challenges import get_challenge
from cxrlt.challenges.custom import CsvSpec
from cxrlt.challenges.spec import read_spec
from cxrlt.errors import UserError
from cxrlt.recipe import RECIPES_DIR, load_recipe
from cxrlt.submissions.read import open_csv, read_submission
from cxrlt.submissions.validate import validate_submission
from five_images import CLASSES, FIVE_IMAGES, IDS
from fuzz.mutations import change_cells, change_zip_header, make_zip, mutate_bytes
from fuzz.oracle import equal_or_both_nan, parse_submission, parse_table
from layouts import CSV_SPEC, LAYOUTS, csv_bytes

SECONDS = 10
MEMORY = 1 << 30
MAX_MESSAGE_CHARS = 5000


@dataclass
class Report:
    """Counts and failures of the cases so far."""

    cases: int = 0
    accepted: int = 0
    refused: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        refusals = "\n".join(f"  {count:9,}  {kind}" for kind, count in self.refused.most_common())
        return (
            f"{self.cases:,} cases: {self.accepted:,} accepted, {self.refused.total():,} refused, "
            f"{len(self.failures):,} failures\n{refusals}\n" + "\n".join(self.failures)
        )


class Tables:
    """The training tables of all challenges, and sometimes the other files of their folders."""

    def __init__(self, folder: Path) -> None:
        self.layouts = list(LAYOUTS.values())
        self.folders = {layout.challenge: folder / layout.challenge for layout in self.layouts}
        for layout in self.layouts:
            layout.write(self.folders[layout.challenge])

    def case(self, random_: random.Random) -> tuple[Path, Callable[[], None]]:
        layout = random_.choice(self.layouts)
        inputs = self.folders[layout.challenge]
        beside = [path for path in sorted(inputs.iterdir()) if path.name != layout.file]
        layout.write(inputs)
        target = random_.choice(beside) if beside and not random_.randrange(5) else inputs / layout.file
        other = csv_bytes(random_.choice(self.layouts).rows())
        change = change_cells if target.suffix == ".csv" and random_.randrange(2) else mutate_bytes
        target.write_bytes(change(_reformat(target.read_bytes(), random_), random_, other))
        return target, lambda: self._read(layout, inputs)

    @staticmethod
    def _read(layout, inputs: Path) -> None:
        challenge = get_challenge(layout.challenge, inputs)
        table = challenge.read("train", inputs)
        if layout.challenge == "csv":
            challenge.template("test", inputs)
        expected = parse_table(inputs / layout.file, layout)
        if layout.challenge == "nih14":
            lines = (inputs / "train_val_list.txt").read_text(encoding="utf-8-sig").splitlines()
            listed = {line.strip() for line in lines if line.strip()}
            expected = {image: row for image, row in expected.items() if image in listed}
        if layout.challenge == "nihlt-single":
            expected = {image: row for image, row in expected.items() if sum(row[2].values()) == 1}
        if layout.challenge == "cxrlt2026-task1":
            expected = {image: row for image, row in expected.items() if image in table.index}
        assert set(table.index) == set(expected), "other images"
        labels = table[list(challenge.classes)].to_numpy()
        for place, image in enumerate(table.index):
            patient, path, values = expected[image]
            assert patient in (None, table["patient"].iloc[place]), "misread"
            assert table["path"].iloc[place] == path, "misread"
            assert all(map(equal_or_both_nan, labels[place], (values[name] for name in challenge.classes))), (
                "labels"
            )


class Submissions:
    """A CSV file, or a zip with one, for a template of five images."""

    valid_csv = csv_bytes(
        [
            ["dicom_id", *CLASSES],
            *([image, f"0.{k}1234567890123456", f"{k}.5e-1", f".{k}3"] for k, image in enumerate(IDS)),
        ]
    )

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def case(self, random_: random.Random) -> tuple[Path, Callable[[], None]]:
        table, other = (
            _reformat(self.valid_csv, random_),
            csv_bytes(random_.choice(list(LAYOUTS.values())).rows()),
        )
        change = random_.choice((change_cells, mutate_bytes))
        kind = random_.randrange(4)
        path = self.folder / ("mine.zip" if kind else "mine.csv")
        if kind == 0:
            content = change(table, random_, other)
        elif kind == 1:
            content = make_zip(change(table, random_, other), random_)
        else:
            damage = mutate_bytes if kind == 2 else change_zip_header
            content = damage(make_zip(table, random_), random_, make_zip(other, random_))
        path.write_bytes(content)
        return path, lambda: self._validate(path)

    @staticmethod
    def _validate(path: Path) -> None:
        problems = validate_submission(path, FIVE_IMAGES, IDS)
        if problems:
            raise UserError(" ".join(problems))
        with open_csv(path) as file:
            header, numbers = parse_submission(file.read())
        values = read_submission(path).numbers(CLASSES)
        assert (header, list(numbers)) == (["dicom_id", *CLASSES], IDS), "other ids"
        assert np.array_equal(values, np.array(list(numbers.values()))), "misread"
        assert ((values >= 0) & (values <= 1)).all(), "no probability"


class Descriptions:
    """Recipes and challenge.yaml."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mine.yaml"
        self.recipes = [path.read_bytes() for path in sorted(RECIPES_DIR.glob("*.yaml"))]

    def case(self, random_: random.Random) -> tuple[Path, Callable[[], None]]:
        is_recipe = random_.randrange(2)
        content = random_.choice(self.recipes) if is_recipe else CSV_SPEC.encode()
        content = mutate_bytes(content, random_, random_.choice(self.recipes))
        tokens = (
            b"&a ",
            b"*a",
            b"!!int ",
            b"{",
            b"[",
            b"- ",
            b": ",
            b"? ",
            b"<<: ",
            b"|\n",
            b"!",
            b"%",
            b"@",
        )
        for _ in range(random_.randrange(3)):
            place = random_.randrange(len(content) + 1)
            content = content[:place] + random_.choice(tokens) + content[place:]
        self.path.write_bytes(content)
        if is_recipe:
            return self.path, lambda: load_recipe(str(self.path)) and None
        return self.path, lambda: read_spec(self.path, CsvSpec) and None


TARGETS = {"table": Tables, "submission": Submissions, "yaml": Descriptions}


def _reformat(content: bytes, random_: random.Random) -> bytes:
    """Return the same file in the format of other programs (BOM, line ends, quotes)."""
    dress = random_.randrange(6)
    if dress == 0:
        return b"\xef\xbb\xbf" + content
    if dress == 1:
        return content.replace(b"\n", random_.choice((b"\r\n", b"\r")))
    if dress == 2:
        return b'"' + content.rstrip(b"\n").replace(b",", b'","').replace(b"\n", b'"\n"') + b'"\n'
    return content


def message_kind(error: UserError) -> str:
    """Return the message without the parts that differ between files."""
    sentence = re.sub(r"'(?:[^'\\]|\\.)*'|\"[^\"]*\"|/\S+|\([^)]*\)|\d[\d,.]*", "…", str(error))
    return " ".join(sentence.split())[:50]


def fuzz(target: str, seed: int, minutes: float, cases: int, keep: Path | None) -> Report:
    """Run `cases` cases, or as many as possible in `minutes`."""
    report, random_ = Report(), random.Random(seed)
    max_memory = max(MEMORY, _peak_memory() + MEMORY)
    ends = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        maker = TARGETS[target](Path(folder))
        while report.cases < cases and time.monotonic() < ends:
            path, read = maker.case(random_)
            report.cases += 1
            started = time.monotonic()
            problem = _find_problem(read, report)
            if time.monotonic() - started > SECONDS:
                problem = f"took {time.monotonic() - started:.1f} s"
            if _peak_memory() > max_memory:
                problem, max_memory = f"took {_peak_memory():,} bytes", 2 * _peak_memory()
            if problem:
                report.failures.append(f"case {report.cases}, {path.name}: {problem}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    name = f"{target}-{seed}-{report.cases}-{path.parent.name}-{path.name}"
                    (keep / name).write_bytes(path.read_bytes())
                    (keep / f"{name}.txt").write_text(problem, errors="replace")
    return report


def _find_problem(read: Callable[[], None], report: Report) -> str | None:
    try:
        read()
        report.accepted += 1
    except UserError as error:
        report.refused[message_kind(error)] += 1
        if not str(error).isprintable() or len(str(error)) > MAX_MESSAGE_CHARS:
            return f"not a valid message: {str(error)[:500]!r}"
    except Exception:
        return traceback.format_exc()
    return None


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
