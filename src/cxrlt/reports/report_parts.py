"""The sections of a run report about the data, the training and the members of the best ensemble."""

import math

import pandas as pd

from cxrlt.ensembles.final_logits import load_final_logits
from cxrlt.errors import UserError
from cxrlt.inputs.duplicate_images import find_duplicate_images
from cxrlt.predictions.standardise import to_probabilities
from cxrlt.reports.figures import class_counts_figure, co_occurrence_figure
from cxrlt.reports.page import Detail, Section
from cxrlt.reports.report_data import ReportData, correlate
from cxrlt.reports.report_files import ReportFiles, Row
from cxrlt.reports.run_figures import correlation_figure, training_figure


def data_section(data: ReportData, files: ReportFiles) -> Section:
    """Return counts, views, prevalence, duplicates and co-occurrence."""
    tables = {"train": data.current.rows.table}
    for split in data.challenge.splits:
        if split != "train":
            try:
                tables[split] = data.current.table(split)
            except UserError:
                continue
    counts = [_split_row(split, table) for split, table in tables.items()]
    summary = files.table("splits", "Images, patients, studies and views", counts)
    shares = files.table("prevalence", "Share of positives, and mean probability", _prevalence(data, tables))
    hashes = {split: data.current.pixels(split) for split in tables}
    known = {split: found for split, found in hashes.items() if found is not None and found.notna().any()}
    duplicates = find_duplicate_images(known, {split: tables[split] for split in known})
    n_across = sum(len(pairs) for pairs in duplicates.splits.values())
    text = (
        f"{len(duplicates.patients):,} pairs of identical images belong to two patients of train, and "
        f"{n_across:,} pairs are in two splits."
    )
    labels = data.labels
    figures = [
        files.figure(
            "class_counts",
            "Positives and negatives of every class, and findings per image.",
            class_counts_figure(labels, data.challenge.groups),
        )
    ]
    if data.challenge.task == "multi_label":
        caption = (
            "Co-occurrence: of the images with the class of a row, the share that also has the column's."
        )
        figures.append(files.figure("co_occurrence", caption, co_occurrence_figure(labels)))
    return Section("Data", [text], [summary, shares], figures)


def _split_row(split: str, table: pd.DataFrame) -> Row:
    views = table["view"].value_counts()
    studies = (
        table.groupby("patient", dropna=True)["study"].nunique() if table["patient"].notna().any() else None
    )
    return {
        "split": split,
        "images": len(table),
        "patients": int(table["patient"].nunique()),
        "studies": int(table["study"].nunique()),
        "studies per patient": math.nan if studies is None else float(studies.mean()),
        **{f"{view} views": int(views.get(view, 0)) for view in ("frontal", "lateral", "unknown")},
    }


def _prevalence(data: ReportData, tables: dict[str, pd.DataFrame]) -> list[Row]:
    """Return the share of positives of every class by split, and the best's mean probability."""
    columns = {}
    for split, table in tables.items():
        labels = table[list(data.challenge.classes)]
        if labels.notna().any(axis=None):
            columns[f"{split}, positives"] = (labels == 1).sum() / labels.notna().sum()
    for split in ("oof", *(split for split in tables if split != "train")):
        logits = _final_logits(data, split)
        if logits is not None:
            columns[f"{split}, mean p"] = to_probabilities(logits, data.challenge.task).mean()
    frame = pd.DataFrame(columns, index=list(data.challenge.classes))
    values = {name: frame.loc[name] for name in data.challenge.classes}
    return [{"class": name, **dict(zip(columns, row, strict=True))} for name, row in values.items()]


def _final_logits(data: ReportData, split: str) -> pd.DataFrame | None:
    try:
        return load_final_logits(data.best.name, split, data.current).logits
    except UserError:  # not predicted, or outdated
        return None


def training_section(data: ReportData, files: ReportFiles) -> Section:
    """Return the training curves of every fold of every model."""
    details = []
    rows: list[Row] = []
    for number, name in enumerate(data.models):
        logs = data.logs(name)
        for fold, log in logs.items():
            rows += [{"run": name, "fold": fold, **log.loc[row].to_dict()} for row in log.index]
        if logs and all(f"oof_{data.metric}" in log for log in logs.values()):
            caption = f"{name}: training loss and {data.metric} of the left-out rows after every epoch."
            drawn = files.figure(f"training_{number:03}", caption, training_figure(logs, data.metric))
            details.append(Detail(f"training-{number}", name, figures=[drawn]))
    files.table("training", "", rows)
    text = f"The {data.metric} of a fold within itself, before standardisation and study mean."
    return Section("Training", [text], details=details)


def members_sections(data: ReportData, files: ReportFiles) -> list[Section]:
    """Return weights, losses without a member and correlation; nothing if the best is no ensemble."""
    if not data.is_ensemble(data.best.name):
        return []
    scores, weights = data.member_scores(), data.weights(data.best.name)
    losses, alone = data.leave_one_out(scores), {each.name: each for each in data.board.evaluations}
    rows = [
        {
            "member": member,
            "weight": weights.final.shares[member],
            data.metric: alone[member].overall.metrics[data.metric].value if member in alone else math.nan,
            "loss without it": losses[member],
        }
        for member in scores
    ]
    table = files.table("members", f"Members of {data.best.name} ({weights.kind}: {weights.why})", rows)
    text = (
        f"Loss without it: the {data.metric} that the ensemble loses if the other weights are scaled to "
        "a sum of 1; they are not fitted again."
    )
    correlation = correlate(scores)
    caption = "Spearman's correlation of the members' out-of-fold scores, mean over the classes."
    figure = files.figure("correlation", caption, correlation_figure(correlation))
    return [Section("Members", [text], [table], [figure])]
