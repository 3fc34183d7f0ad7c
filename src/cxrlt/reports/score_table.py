"""Scores as text that a person reads in a terminal."""

import numpy as np

from cxrlt.calibration.calibrate import CalibrationReport
from cxrlt.errors import listing
from cxrlt.metrics import Interval, class_means, metric_names, paired_difference
from cxrlt.predictions.scoring import Evaluation
from cxrlt.submissions.evaluate import Leaderboard
from cxrlt.text_table import text_table

GROUPS = ("head", "medium", "tail")


def score_table(evaluation: Evaluation) -> str:
    """One model, ensemble or file: macro means with their intervals, then every class."""
    blocks = ["\n".join([_title(evaluation), *_oof_lines(evaluation)]), _group_table(evaluation)]
    of_rows = [name for name in metric_names(evaluation.task) if name not in class_means(evaluation.task)]
    if of_rows:
        rows = [[name, _interval(evaluation.overall.of(name))] for name in of_rows]
        blocks.append(text_table(["metric", "all rows"], rows, n_text=1))
    blocks.append(_class_table(evaluation))
    notes = [f"note: {note}" for note in evaluation.notes]
    if evaluation.undefined:
        notes.append(f"left out of every mean, without both values: {listing(evaluation.undefined)}")
    return "\n\n".join([*blocks, "\n".join(notes)] if notes else blocks)


def leaderboard_table(board: Leaderboard) -> str:
    """Everything trained, best first, with how far the best is ahead of each."""
    metric, task = board.evaluations[0].metric, board.evaluations[0].task
    single, of_classes = task == "single_label", list(class_means(task))
    beside = [name for name in dict.fromkeys([*of_classes, *metric_names(task)]) if name != metric]
    of_groups = metric if metric in of_classes else of_classes[0]
    headings = ["name", f"{board.split} {metric}", "best ahead by", *beside]
    headings += [group if of_groups == metric else f"{group} {of_groups}" for group in GROUPS]
    if board.split == "oof":
        headings += ["mean over folds"] if single else ["mean over folds", "raw pooled"]
    rows = []
    for evaluation, difference in zip(board.evaluations, board.differences, strict=True):
        row = [evaluation.name + ("*" if evaluation.notes else ""), _interval(evaluation.overall.of(metric))]
        row.append(_interval(difference) if rows else "")
        others = [evaluation.overall.of(name) for name in beside]
        row += [_number(other.value) if single else _interval(other) for other in others]
        row += [_number(evaluation.groups[group].of(of_groups).value) for group in GROUPS]
        row += [_number(evaluation.mean_over_folds), _number(evaluation.raw_pooled)]
        rows.append(row[: len(headings)])
    lines = [text_table(headings, rows, n_text=1)]
    lines += [f"* {item.name}: {note}" for item in board.evaluations for note in item.notes]
    lines += [f"not scored: {name}: {reason}" for name, reason in board.left_out.items()]
    return "\n".join(lines)


def calibration_table(report: CalibrationReport) -> str:
    """What calibration changes out of fold: every variant's figures, and how far they are from raw."""
    calibration, figures = report.calibration, report.variants["raw"].figures
    why = "as asked for" if report.forced else "the simplest within noise of the best"
    blocks = [f"{report.name} on {report.challenge}: {calibration.method}, {why}; {report.n_rows:,} rows"]
    if not report.forced:
        tried = [[method, _signed(gap)] for method, gap in report.behind.items()]
        blocks.append(text_table(["method", "log-loss minus the best"], tried, n_text=1))
    headings = ["probabilities", f"{report.metric} in folds"]
    headings += [heading for name in figures for heading in (name, "minus raw")]
    rows = []
    for variant, score in report.variants.items():
        row = [variant, _number(score.ranking)]
        for name, figure in score.figures.items():
            row += [_number(figure.value), "" if variant == "raw" else _signed(score.differences[name])]
        rows.append(row)
    blocks.append(
        text_table(headings, rows, n_text=1) + "\nEvery row is mapped by what was fitted without its fold."
    )
    thresholds = [
        [name, f"{n:,}", f"{calibration.thresholds[name]:.4f}"] for name, n in report.n_positive.items()
    ]
    blocks.append(text_table(["class", "positives", "best F1 from"], thresholds, n_text=1))
    return "\n\n".join([*blocks, *(f"note: {note}" for note in report.notes), str(report.path)])


def ahead_line(first: Evaluation, second: Evaluation, name: str) -> str:
    """By how much the first is ahead of the second, called `name`; both score the same rows."""
    metric = first.metric
    ahead = paired_difference(first.draws[metric], second.draws[metric])
    return f"{metric} minus that of {name}: {_signed(ahead)} (95 %, on the same patients drawn)"


def _title(evaluation: Evaluation) -> str:
    patients = "" if evaluation.n_patients is None else f", {evaluation.n_patients:,} patients"
    title = f"{evaluation.name} on {evaluation.challenge} {evaluation.split}: "
    title += f"{evaluation.n_rows:,} rows{patients}"
    if evaluation.study_mean is not None:
        title += f"; {evaluation.study_mean}"
    return title


def _oof_lines(evaluation: Evaluation) -> list[str]:
    """What stands beside the defined out-of-fold score."""
    if not evaluation.per_fold:
        return []
    values = [fold[evaluation.metric] for fold in evaluation.per_fold]
    defined = [value for value in values if not np.isnan(value)]
    spread = _number(float(np.std(defined)) if defined else None)
    folds = listing(map(_number, values))
    beside = f"mean over folds {_number(evaluation.mean_over_folds)} ({folds}; s.d. {spread})"
    if evaluation.raw_pooled is not None:
        beside = f"raw logits pooled {_number(evaluation.raw_pooled)}; {beside}"
    pooled = "probabilities" if evaluation.task == "single_label" else "standardised logits"
    return [f"beside the {evaluation.metric} below, which is over pooled {pooled}: {beside}"]


def _group_table(evaluation: Evaluation) -> str:
    metrics = class_means(evaluation.task)
    rows = [
        [name, str(group.n_classes), *(_interval(group.of(metric)) for metric in metrics)]
        for name, group in ({"all": evaluation.overall} | evaluation.groups).items()
        if group.n_classes
    ]
    return text_table(["classes", "n", *metrics], rows, n_text=1)


def _class_table(evaluation: Evaluation) -> str:
    single = evaluation.task == "single_label"
    figures = list(evaluation.classes[0].metrics)
    if not single:
        figures.insert(1, "lift")  # AP over prevalence
    rows = []
    for score in evaluation.classes:
        if score.name in evaluation.undefined:
            continue
        shown = {name: _interval(interval) for name, interval in score.metrics.items()}
        shown |= {name: _number(score.metrics[name].value) for name in ("precision", "recall") if single}
        shown["lift"] = f"{score.lift:.1f}"
        without = score.metrics[figures[0]].n_undefined
        row = [score.name, score.group, f"{score.n_positive:,}", f"{score.prevalence:.2%}"]
        rows.append([*row, *(shown[name] for name in figures), str(without or "")])
    headings = ["class", "group", "rows" if single else "positives", "share", *figures, "draws without"]
    return text_table(headings, rows, n_text=2)


def _interval(interval: Interval) -> str:
    if np.isnan(interval.value):
        return "-"
    return f"{_number(interval.value)} [{_number(interval.low)}, {_number(interval.high)}]"


def _signed(interval: Interval) -> str:
    if np.isnan(interval.value):
        return "-"
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"
