"""The tables of `cxrlt reproduce` over all its experiments: CSV files, Markdown and one HTML page."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges.base import DEFAULT_METRIC, Challenge
from cxrlt.ensembles.provenance import initial_weights_notes
from cxrlt.experiments import PaperName, Protocol
from cxrlt.experiments.experiment import Row
from cxrlt.experiments.papers import experiment_name, published_numbers
from cxrlt.experiments.report import (
    LEGEND,
    format_difference,
    format_mean_std,
    format_number,
    markdown_table,
    write_csv,
)
from cxrlt.experiments.score import CHALLENGE_LABELS
from cxrlt.folds.read import read_folds
from cxrlt.metrics import class_means
from cxrlt.predictions.run_names import run_names
from cxrlt.reports.page import PageTable, Section, write_page
from cxrlt.system.atomic_files import write_text

CLASS_LEGEND = (
    "Per class: means over seeds with bootstrap intervals over patients; higher or lower if the interval of "
    "the paired difference to the reference excludes 0. These do not include the noise between seeds."
)
RESULTS, CLASSES = "results.csv", "classes.csv"
NOT_AVAILABLE = "not available"


@dataclass(frozen=True)
class Cell:
    """The experiment `name` with one data set and recipe, and the folders of each protocol."""

    challenge: Challenge
    recipe: str
    name: str
    workspaces: Mapping[Protocol, Workspace]

    def results_path(self, protocol: Protocol, file: str) -> Path:
        """Return the path of a results file, which exists if the protocol has been run."""
        return self.workspaces[protocol].submission_dir(self.challenge.name, self.name) / file

    def notes(self) -> Iterator[str]:
        """Yield sentences for every protocol that has been run: folds that leak, the initial weights."""
        for protocol, workspace in self.workspaces.items():
            if not self.results_path(protocol, RESULTS).is_file():
                continue
            for note in read_folds(self.challenge, workspace).leakage_notes(self.challenge):
                yield f"Protocol {protocol}: {note}"
            names = run_names(self.challenge.name, workspace)
            runs = [name for name in names if name.startswith(f"{self.name}/")]
            for note in initial_weights_notes(runs, self.challenge, workspace):
                yield f"Protocol {protocol}, recipe {self.recipe}: {note}"


def write_combined_report(
    workspace: Workspace, paper: PaperName, cells: Sequence[Cell], quick: bool = False
) -> str:
    """Write the tables of all finished experiments. Return them as Markdown; empty if none is finished."""
    name = experiment_name(paper, quick)
    folder = workspace.root / "submissions" / name
    results, classes = _read(cells, RESULTS), _read(cells, CLASSES)
    if results.empty:
        return ""
    write_csv(folder / RESULTS, results)
    write_csv(folder / CLASSES, classes)
    published = published_numbers(paper)
    sections = []
    for challenge in {cell.challenge.name: cell.challenge for cell in cells}.values():
        own, own_classes = (frame[frame["challenge"] == challenge.name] for frame in (results, classes))
        if len(own):
            tables = [_result_table(challenge, own, published), _class_table(challenge, own_classes)]
            notes = (note for cell in cells if cell.challenge.name == challenge.name for note in cell.notes())
            sections.append(Section(challenge.name, list(dict.fromkeys(notes)), tables))
    sources = ", ".join(sorted(published["source"].unique()))
    legend = (*LEGEND, CLASS_LEGEND, f"Sources of published numbers: {sources or NOT_AVAILABLE}.")
    write_page(folder / "report.html", name, [*sections, Section("Method", legend)])
    text = "\n\n".join([f"## {name}", *_markdown_blocks(sections), " ".join(legend)])
    write_text(folder / "results.md", text + "\n")
    return f"{text}\n\nfull report: {folder / 'report.html'}"


def _read(cells: Sequence[Cell], file: str) -> pd.DataFrame:
    """Return the rows of all experiments' files, with challenge, recipe and protocol as first columns."""
    frames = []
    for cell in cells:
        for protocol in cell.workspaces:
            if (path := cell.results_path(protocol, file)).is_file():
                rows = pd.read_csv(path).query(f"truth == '{CHALLENGE_LABELS}'")
                keys = {"challenge": cell.challenge.name, "recipe": cell.recipe, "protocol": protocol}
                frames.append(pd.DataFrame(keys, index=rows.index).join(rows.drop(columns="truth")))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _result_table(challenge: Challenge, results: pd.DataFrame, published: pd.DataFrame) -> PageTable:
    """Return the table of one challenge: a row per recipe and loss, both protocols side by side."""
    metrics = list(dict.fromkeys([challenge.metric, DEFAULT_METRIC[challenge.task]]))
    protocols, reference = results["protocol"].unique(), results["variant"].iloc[0]
    headings = ["recipe", "loss"]
    for protocol in protocols:
        headings += [f"{metric}, {protocol}" for metric in metrics]
        headings += [f"{metrics[0]} minus {reference} [95 %], {protocol}"]
    rows = []
    for (recipe, loss), group in results.groupby(["recipe", "variant"], sort=False):
        row = [str(recipe), str(loss)]
        found = {values["protocol"]: values for values in _records(group)}
        for protocol in protocols:
            row += _cells(found.get(protocol), metrics)
        known = {
            entry["metric"]: format_number(entry["value"])
            for entry in _records(published)
            if (entry["challenge"], entry["recipe"], entry["loss"]) == (challenge.name, recipe, loss)
        }
        values = [known[metric] for metric in metrics if metric in known]
        rows.append([*row, " / ".join(values) or NOT_AVAILABLE])
    return PageTable("Scores", [*headings, f"published {' / '.join(metrics)}"], rows)


def _cells(row: Row | None, metrics: Sequence[str]) -> list[str]:
    """Return the cells of one loss with one protocol; dashes if it has not been run."""
    if row is None:
        return ["–"] * (len(metrics) + 1)
    values = [format_mean_std(row[metric], row[f"{metric} sd over seeds"]) for metric in metrics]
    if pd.isna(row["verdict"]):  # the reference
        return [*values, ""]
    return [*values, f"{format_difference(row, metrics[0])}, {row['verdict']}"]


def _class_table(challenge: Challenge, classes: pd.DataFrame) -> PageTable:
    """Return the table of one challenge: a row per recipe, protocol and class, a column per loss."""
    metric = class_means(challenge.task)[DEFAULT_METRIC[challenge.task]]
    losses = list(classes["variant"].unique())
    rows = []
    for keys, group in classes.groupby(["recipe", "protocol", "class"], sort=False):
        found = {values["variant"]: _class_cell(values, metric) for values in _records(group)}
        rows.append([*map(str, keys), *(found.get(loss, "–") for loss in losses)])
    return PageTable(f"{metric} of each class", ["recipe", "protocol", "class", *losses], rows)


def _class_cell(row: Row, metric: str) -> str:
    low, high = (row.get(f"{metric} difference {end}", math.nan) for end in ("low", "high"))
    verdict = " higher" if low > 0 else " lower" if high < 0 else ""
    interval = ", ".join(format_number(row[f"{metric} {end}"]) for end in ("low", "high"))
    return f"{format_number(row[metric])} [{interval}]{verdict}"


def _records(frame: pd.DataFrame) -> list[Row]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _markdown_blocks(sections: Sequence[Section]) -> Iterator[str]:
    for section in sections:
        yield f"### {section.title}"
        yield from section.paragraphs
        for table in section.tables:
            yield table.caption
            yield markdown_table(table)
