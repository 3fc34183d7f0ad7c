"""The section of a run report about the classes of the best run."""

import math

import numpy as np
from matplotlib.figure import Figure

from cxrlt.metrics import has_both_values
from cxrlt.predictions.scoring import ClassScore
from cxrlt.predictions.standardise import to_probabilities
from cxrlt.reports.page import Detail, PageFigure, PageTable, Section
from cxrlt.reports.report_data import ReportData
from cxrlt.reports.report_files import ReportFiles, Row, interval_columns
from cxrlt.reports.report_images import ImageFigures
from cxrlt.reports.run_figures import class_figure


def classes_section(data: ReportData, files: ReportFiles, images: ImageFigures | None) -> Section:
    """Return the table of the classes of the best run, the curves of each class and, if given, its images."""
    rows = [_class_row(data, each) for each in data.best.classes]
    table = files.table("classes", f"Classes of {data.best.name}, out of fold", rows)
    details, links = [], {}
    for number, score in enumerate(data.best.classes):
        if figure := _class_figure(data, score.name):
            links[score.name] = f"class-{number}"
            caption = (
                "Precision-recall and ROC curve, reliability in ten bins of equally many images, logits."
            )
            name = f"class_{number:03}"
            figures = [files.figure(name, f"{score.name}. {caption}", figure)]
            if images is not None:
                figures.append(_draw_images(data, files, images, number, score.name))
            details.append(Detail(f"class-{number}", score.name, figures=figures))
    linked = PageTable(table.caption, table.headings, table.rows, table.sort_values, True, links)
    paragraphs = ["Lift: AP over prevalence, which is the AP of random scores."]
    if data.nested:
        paragraphs.append("F1: at the thresholds of the calibration, fitted without the fold that is scored.")
    return Section("Classes", paragraphs, [linked], details=details)


def _draw_images(
    data: ReportData, files: ReportFiles, images: ImageFigures, number: int, name: str
) -> PageFigure:
    probabilities = to_probabilities(data.logits, data.challenge.task)[name]
    caption = (
        f"{name}: positives with the lowest, negatives with the highest and positives with the highest "
        f"probability; right: where {images.name} finds the class (Grad-CAM of the fold that did not see it)."
    )
    return files.picture(f"class_{number:03}_images", caption, images.figure(name, probabilities))


def _class_row(data: ReportData, score: ClassScore) -> Row:
    row: Row = {"class": score.name, "group": score.group, "positives": score.n_positive}
    row |= {
        "prevalence": score.prevalence,
        **interval_columns("AP", score.metrics["AP"]),
        "lift": score.lift,
    }
    row |= interval_columns("AUROC", score.metrics["AUROC"])
    if "F1" in score.metrics:
        row |= interval_columns("F1", score.metrics["F1"])
    elif data.nested:
        row["F1"] = _f1(data, score.name)
    return row


def _f1(data: ReportData, name: str) -> float:
    decided = data.nested["f1"][name] > 0
    labels = data.labels.loc[decided.index, name]
    known = labels.notna()
    positive, decided = (labels == 1)[known], decided[known]
    total = positive.sum() + decided.sum()
    return float(2 * (positive & decided).sum() / total) if total else math.nan


def _class_figure(data: ReportData, name: str) -> Figure | None:
    logits = data.logits[name]
    labels = data.labels.loc[logits.index, name]
    known = labels.notna().to_numpy()
    if not has_both_values(labels.to_numpy()[:, None])[0]:
        return None
    nested = data.nested.get("calibrated")
    mapped = None if nested is None else nested[name].reindex(logits.index).to_numpy(np.float64)[known]
    if mapped is not None and np.isnan(mapped).any():
        mapped = None
    return class_figure(labels.to_numpy(np.float64)[known], logits.to_numpy(np.float64)[known], mapped)
