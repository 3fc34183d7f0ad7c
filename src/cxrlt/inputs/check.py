"""`cxrlt check`: reads every table, looks for every image and at what caches know; changes nothing."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import VIEWS, Challenge
from cxrlt.errors import UserError, listing
from cxrlt.inputs.pixels import inverted_in_caches, recorded_hashes
from cxrlt.inputs.shared_patients import find_shared_patients
from cxrlt.inputs.shared_pictures import same_pictures
from cxrlt.inputs.table import missing_images, with_files, without_shared
from cxrlt.spelling import other_spellings
from cxrlt.text_table import text_table


@dataclass(frozen=True)
class Report:
    """The lines of the report so far, and every problem met on the way."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check(
    challenge: Challenge,
    workspace: Workspace,
    *,
    allow_missing: bool = False,
    drop_shared_patients: bool = False,
) -> str:
    """A report of rows, patients, studies, views, positives, images, shared patients and pictures.

    Of pictures only those that caches have are known; none is read.

    Raises UserError with the report and all problems at its end, so that one run shows every one of them.
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
        report.lines.extend(_without_positives(challenge, tables["train"]))
        _check_patients(challenge, tables, drop_shared_patients, report)
    report.lines.extend(_from_caches(challenge, workspace, tables))
    if report.problems:
        count = len(report.problems)
        title = "1 problem:" if count == 1 else f"{count} problems:"
        problems = [f"- {problem}" for problem in report.problems]
        raise UserError("\n".join([*report.lines, "", title, *problems]))
    return "\n".join([*report.lines, "", "No problem found."])


def _read_all(challenge: Challenge, workspace: Workspace, report: Report) -> dict[str, pd.DataFrame]:
    """Tables by split, one that cannot be read left out."""
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
    asked = pd.Index(challenge.template(split, inputs_dir))
    if len(strange := asked.difference(table.index)):
        raise UserError(
            f"{challenge.name} {split}: the template asks for {len(strange):,} images that the table lacks: "
            f"{listing(strange)}.{other_spellings(strange, table.index)} Are both files of the same release?"
        )


def _locate_all(
    challenge: Challenge,
    workspace: Workspace,
    tables: dict[str, pd.DataFrame],
    allow_missing: bool,
    report: Report,
) -> dict[str, pd.DataFrame]:
    try:
        tables = {split: with_files(challenge, table, workspace) for split, table in tables.items()}
    except UserError as error:
        report.problems.append(str(error))
        return {split: table.assign(file=None) for split, table in tables.items()}
    for split, table in tables.items():
        if table["file"].isna().any():
            sentence = missing_images(challenge, split, table, workspace)
            if allow_missing:
                report.lines.append(sentence)
            else:
                report.problems.append(f"{sentence} --allow-missing continues without them.")
    return tables


def _check_patients(
    challenge: Challenge, tables: dict[str, pd.DataFrame], drop: bool, report: Report
) -> None:
    others = {split: table for split, table in tables.items() if split != "train"}
    shared = find_shared_patients(tables["train"], others)
    report.lines.extend(["", shared.sentence(with_ids=True)])
    try:
        without_shared(challenge, tables["train"], shared, drop)
    except UserError as error:
        report.problems.append(str(error))


def _from_caches(challenge: Challenge, workspace: Workspace, tables: dict[str, pd.DataFrame]) -> list[str]:
    """What caches know of identical and inverted pictures; no image is read."""
    if not tables:
        return []
    found = recorded_hashes(challenge, workspace, pd.concat([table[["file"]] for table in tables.values()]))
    if found is None:
        return []
    hashes, start = {}, 0
    for split, table in tables.items():
        hashes[split] = found.hashes.iloc[start : start + len(table)]
        start += len(table)
    sentences = same_pictures(hashes, tables).sentences(challenge.name)
    sentences += inverted_in_caches(challenge, workspace)
    return [line for sentence in sentences for line in ("", sentence)]


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
    """Positives per class and split, beside the official full training count that fixes the group."""
    group_of = {name: group for group, names in challenge.groups.items() for name in names}
    rows = []
    for name in challenge.classes:
        positives = [
            f"{int(table[name].sum()):,}" if table[name].notna().any() else "-" for table in tables.values()
        ]
        rows.append([name, group_of[name], f"{challenge.train_counts[name]:,}", *positives])
    return text_table(["class", "group", "official", *tables], rows, n_text=2)


def _without_positives(challenge: Challenge, train: pd.DataFrame) -> list[str]:
    names = [name for name in challenge.classes if not (train[name] == 1).any()]
    if not names:
        return []
    return ["", f"No positive in train: {listing(names)}. Nothing shows a model what these look like."]
