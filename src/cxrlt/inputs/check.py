"""`cxrlt check`: read every table and look for every image; read no pixels and change nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import VIEWS, Challenge
from cxrlt.errors import UserError, listing
from cxrlt.inputs.duplicate_images import find_duplicate_images
from cxrlt.inputs.image_hashes import cached_hashes, inverted_warnings_from_caches
from cxrlt.inputs.shared_patients import find_shared_patients
from cxrlt.inputs.table import add_file_column, apply_patient_policy, missing_images_message
from cxrlt.spelling import other_spellings
from cxrlt.text_table import text_table

TRAIN_SHARE = 0.7
"""Share of train in the random split of `expected_leakage`, as in the LMF paper and many others."""


@dataclass(frozen=True)
class Report:
    """The lines of the report and the problems found so far."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check(
    challenge: Challenge,
    workspace: Workspace,
    *,
    allow_missing: bool = False,
    drop_shared_patients: bool = False,
) -> str:
    """Return a report of rows, patients, studies, views, positives, images and shared patients.

    Raises UserError with the report and all problems, so that one run shows every problem.
    """
    report = inspect_inputs(challenge, workspace, allow_missing, drop_shared_patients)
    if report.problems:
        count = len(report.problems)
        title = "1 problem:" if count == 1 else f"{count} problems:"
        problems = [f"- {problem}" for problem in report.problems]
        raise UserError("\n".join([*report.lines, "", title, *problems]))
    return "\n".join([*report.lines, "", "No problem found."])


def inspect_inputs(
    challenge: Challenge, workspace: Workspace, allow_missing: bool, drop_shared_patients: bool
) -> Report:
    """Read every table and look for every image; return what was found.

    Duplicate and inverted images are found only among those in an image cache; no image is read.
    """
    report = Report()
    report.lines.append(f"{challenge.name}: {challenge.title}")
    report.lines.append(f"tables in {workspace.inputs_dir(challenge.name)}")
    report.lines.append(f"images in {workspace.images_dir(challenge.name)}")
    tables = _read_all(challenge, workspace, report)
    if "train" in tables:
        report.lines.extend(challenge.notes(workspace.inputs_dir(challenge.name)))
    if tables:
        tables = _locate_all(challenge, workspace, tables, allow_missing, report)
        report.lines.extend(["", _split_table(tables), "", _class_table(challenge, tables)])
    if "train" in tables:
        report.lines.extend(_classes_without_positives(challenge, tables["train"]))
        _check_patients(challenge, tables, drop_shared_patients, report)
        report.lines.extend(_random_split_leakage(challenge, tables["train"]))
    report.lines.extend(_cache_warnings(challenge, workspace, tables))
    return report


def _read_all(challenge: Challenge, workspace: Workspace, report: Report) -> dict[str, pd.DataFrame]:
    """Return the tables by split. A table that cannot be read is a problem of the report."""
    tables = {}
    inputs_dir = workspace.inputs_dir(challenge.name)
    for split in challenge.splits:
        try:
            tables[split] = challenge.read(split, inputs_dir)
            if split != "train":
                _check_template(challenge, split, inputs_dir, tables[split])
        except UserError as error:
            report.problems.append(str(error))
    return tables


def _check_template(challenge: Challenge, split: str, inputs_dir: Path, table: pd.DataFrame) -> None:
    template_ids = pd.Index(challenge.template(split, inputs_dir))
    if len(unknown := template_ids.difference(table.index)):
        raise UserError(
            f"{challenge.name} {split}: the template has {len(unknown):,} images that the table lacks: "
            f"{listing(unknown)}.{other_spellings(unknown, table.index)} Are both files of the same release?"
        )


def _locate_all(
    challenge: Challenge,
    workspace: Workspace,
    tables: dict[str, pd.DataFrame],
    allow_missing: bool,
    report: Report,
) -> dict[str, pd.DataFrame]:
    try:
        tables = {split: add_file_column(challenge, table, workspace) for split, table in tables.items()}
    except UserError as error:
        report.problems.append(str(error))
        return {split: table.assign(file=None) for split, table in tables.items()}
    for split, table in tables.items():
        if table["file"].isna().any():
            message = missing_images_message(challenge, split, table, workspace)
            if allow_missing:
                report.lines.append(message)
            else:
                report.problems.append(f"{message} To continue without these images, use --allow-missing.")
    return tables


def _check_patients(
    challenge: Challenge, tables: dict[str, pd.DataFrame], drop: bool, report: Report
) -> None:
    others = {split: table for split, table in tables.items() if split != "train"}
    shared = find_shared_patients(tables["train"], others)
    report.lines.extend(["", shared.summary(with_ids=True)])
    try:
        apply_patient_policy(challenge, tables["train"], shared, drop)
    except UserError as error:
        report.problems.append(str(error))


def _random_split_leakage(challenge: Challenge, train: pd.DataFrame) -> list[str]:
    """Return a sentence on what a random split by image would leak, if some groups have several images."""
    sizes = train["patient"].value_counts()
    if (sizes < 2).all():
        return []
    word = challenge.group_word
    share = expected_leakage([*sizes, *[1] * int(train["patient"].isna().sum())])
    return [
        f"In a random 70/15/15 split by image, {share:.1%} of the test images would have their {word} in "
        f"train ({(sizes > 1).sum():,} of {len(sizes):,} {word}s have several images). cxrlt folds keeps "
        f"{word}s whole."
    ]


def expected_leakage(group_sizes: Sequence[int]) -> float:
    """Return the expected share of test images whose group is in train, in a random 70/15/15 split by image.

    Exact: given a test image, the T training images are a random sample of the other N - 1 images, so its
    g - 1 group members all miss train with the hypergeometric probability
    PROD_j<g-1 (N - 1 - T - j) / (N - 1 - j).
    """
    sizes, counts = np.unique(np.asarray(group_sizes), return_counts=True)
    n = int((sizes * counts).sum())
    n_others, n_not_train = n - 1, n - 1 - round(TRAIN_SHARE * n)
    taken = np.arange(sizes.max() - 1)  # members that have already missed train
    missed = np.cumprod([1, *(n_not_train - taken).clip(0) / (n_others - taken)])
    return float((sizes * counts * (1 - missed[sizes - 1])).sum() / n)


def _cache_warnings(challenge: Challenge, workspace: Workspace, tables: dict[str, pd.DataFrame]) -> list[str]:
    """Return warnings about duplicate and inverted images in the caches; read no image file."""
    if not tables:
        return []
    found = cached_hashes(challenge, workspace, pd.concat([table[["file"]] for table in tables.values()]))
    if found is None:
        return []
    hashes, start = {}, 0
    for split, table in tables.items():
        hashes[split] = found.hashes.iloc[start : start + len(table)]
        start += len(table)
    warnings = find_duplicate_images(hashes, tables).warnings(challenge.name)
    warnings += inverted_warnings_from_caches(challenge, workspace)
    return [line for warning in warnings for line in ("", warning)]


def _split_table(tables: dict[str, pd.DataFrame]) -> str:
    rows = []
    for split, table in tables.items():
        labelled = table.select_dtypes(np.float32).notna().any(axis=1)
        views = table["view"].value_counts()
        counts = [len(table), table["file"].notna().sum(), labelled.sum(), table["patient"].nunique()]
        counts += [table["study"].nunique(), *(views.get(view, 0) for view in VIEWS)]
        rows.append([split, *(f"{count:,}" for count in counts)])
    headings = ["split", "images", "found", "labelled", "patients", "studies", *VIEWS]
    return text_table(headings, rows, n_text=1)


def _class_table(challenge: Challenge, tables: dict[str, pd.DataFrame]) -> str:
    """Positives per class and split, and the official training count that decides head, medium or tail."""
    group_of = {name: group for group, names in challenge.groups.items() for name in names}
    rows = []
    for name in challenge.classes:
        positives = [
            f"{int(table[name].sum()):,}" if table[name].notna().any() else "-" for table in tables.values()
        ]
        rows.append([name, group_of[name], f"{challenge.train_counts[name]:,}", *positives])
    return text_table(["class", "group", "official", *tables], rows, n_text=2)


def _classes_without_positives(challenge: Challenge, train: pd.DataFrame) -> list[str]:
    names = [name for name in challenge.classes if not (train[name] == 1).any()]
    if not names:
        return []
    return ["", f"No positives in train: {listing(names)}. A model cannot learn these classes."]
