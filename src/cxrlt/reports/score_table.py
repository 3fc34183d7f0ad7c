"""Score tables as text for the terminal."""

import numpy as np

from cxrlt.calibration.calibrate import CalibrationReport
from cxrlt.errors import listing
from cxrlt.metrics import Interval, class_means, metric_names, paired_difference
from cxrlt.predictions.scoring import Evaluation
from cxrlt.submissions.evaluate import Leaderboard
from cxrlt.text_table import text_table

GROUPS = ("head", "medium", "tail")


def score_table(evaluation: Evaluation) -> str:
    """Return the scores of a model, ensemble or file: macro means with intervals, then every class."""
    blocks = ["\n".join([_title(evaluation), *_oof_lines(evaluation)]), _group_table(evaluation)]
    row_metrics = [name for name in metric_names(evaluation.task) if name not in class_means(evaluation.task)]
    if row_metrics:
        rows = [[name, _interval(evaluation.overall.metrics[name])] for name in row_metrics]
        blocks.append(text_table(["metric", "all rows"], rows, n_text=1))
    blocks.append(_class_table(evaluation))
    notes = [f"note: {note}" for note in evaluation.notes]
    if evaluation.undefined:
        notes.append(
            f"excluded from means, as they lack positives or negatives: {listing(evaluation.undefined)}"
        )
    return "\n\n".join([*blocks, "\n".join(notes)] if notes else blocks)


def leaderboard_table(board: Leaderboard) -> str:
    """Return the leaderboard of all models and ensembles, best first, with the best's lead over each."""
    metric, task = board.evaluations[0].metric, board.evaluations[0].task
    single, class_metrics = task == "single_label", list(class_means(task))
    other_metrics = [name for name in dict.fromkeys([*class_metrics, *metric_names(task)]) if name != metric]
    group_metric = metric if metric in class_metrics else class_metrics[0]
    headings = ["name", f"{board.split} {metric}", "best minus this", *other_metrics]
    headings += [group if group_metric == metric else f"{group} {group_metric}" for group in GROUPS]
    if board.split == "oof":
        headings += ["mean over folds"] if single else ["mean over folds", "raw pooled"]
    rows: list[list[str]] = []
    for evaluation, difference in zip(board.evaluations, board.differences, strict=True):
        row = [
            evaluation.name + ("*" if evaluation.notes else ""),
            _interval(evaluation.overall.metrics[metric]),
        ]
        row.append(_interval(difference) if rows else "")
        others = [evaluation.overall.metrics[name] for name in other_metrics]
        row += [_number(other.value) if single else _interval(other) for other in others]
        row += [_number(evaluation.groups[group].metrics[group_metric].value) for group in GROUPS]
        row += [_number(evaluation.mean_over_folds), _number(evaluation.raw_pooled)]
        rows.append(row[: len(headings)])
    lines = [text_table(headings, rows, n_text=1)]
    lines += [f"* {item.name}: {note}" for item in board.evaluations for note in item.notes]
    lines += [f"not scored: {name}: {reason}" for name, reason in board.skipped.items()]
    return "\n".join(lines)


def calibration_table(report: CalibrationReport) -> str:
    """Return the effect of calibration out of fold: every variant's metrics and their differences to raw."""
    calibration, figures = report.calibration, report.variants["raw"].metrics
    why = "as requested" if report.forced else "the simplest within noise of the best"
    blocks = [f"{report.name} on {report.challenge}: {calibration.method}, {why}; {report.n_rows:,} rows"]
    if not report.forced:
        log_losses = [[method, _signed(gap)] for method, gap in report.behind.items()]
        blocks.append(text_table(["method", "log-loss minus the best"], log_losses, n_text=1))
    headings = ["probabilities", f"{report.metric} in folds"]
    headings += [heading for name in figures for heading in (name, "minus raw")]
    rows = []
    for variant, score in report.variants.items():
        row = [variant, _number(score.ranking)]
        for name, figure in score.metrics.items():
            row += [_number(figure.value), "" if variant == "raw" else _signed(score.differences[name])]
        rows.append(row)
    blocks.append(
        text_table(headings, rows, n_text=1) + "\nEach fold is calibrated with a fit on the other folds."
    )
    thresholds = [
        [name, f"{n:,}", f"{calibration.thresholds[name]:.4f}"] for name, n in report.n_positive.items()
    ]
    blocks.append(text_table(["class", "positives", "best F1 threshold"], thresholds, n_text=1))
    return "\n\n".join([*blocks, *(f"note: {note}" for note in report.notes), str(report.path)])


def difference_line(first: Evaluation, second: Evaluation, name: str) -> str:
    """Return the difference of two evaluations of the same rows, with its interval. `name`: of the second."""
    metric = first.metric
    ahead = paired_difference(first.draws[metric], second.draws[metric])
    return f"{metric} minus {name}: {_signed(ahead)} (95 % interval, paired by patient)"


def _title(evaluation: Evaluation) -> str:
    patients = "" if evaluation.n_patients is None else f", {evaluation.n_patients:,} patients"
    title = f"{evaluation.name} on {evaluation.challenge} {evaluation.split}: "
    title += f"{evaluation.n_rows:,} rows{patients}"
    if evaluation.study_mean is not None:
        title += f"; {evaluation.study_mean}"
    return title


def _oof_lines(evaluation: Evaluation) -> list[str]:
    """Return the line with other summaries of the out-of-fold score."""
    if not evaluation.per_fold:
        return []
    values = [fold[evaluation.metric] for fold in evaluation.per_fold]
    defined = [value for value in values if not np.isnan(value)]
    spread = _number(float(np.std(defined)) if defined else None)
    folds = listing(map(_number, values))
    summaries = f"mean over folds {_number(evaluation.mean_over_folds)} ({folds}; s.d. {spread})"
    if evaluation.raw_pooled is not None:
        summaries = f"raw logits pooled {_number(evaluation.raw_pooled)}; {summaries}"
    pooled = "probabilities" if evaluation.task == "single_label" else "standardised logits"
    return [f"{evaluation.metric} below is over pooled {pooled}; other summaries: {summaries}"]


def _group_table(evaluation: Evaluation) -> str:
    metrics = class_means(evaluation.task)
    rows = [
        [name, str(group.n_classes), *(_interval(group.metrics[metric]) for metric in metrics)]
        for name, group in ({"all": evaluation.overall} | evaluation.groups).items()
        if group.n_classes
    ]
    return text_table(["classes", "n", *metrics], rows, n_text=1)


def _class_table(evaluation: Evaluation) -> str:
    single = evaluation.task == "single_label"
    metrics = list(evaluation.classes[0].metrics)
    if not single:
        metrics.insert(1, "lift")  # AP over prevalence
    rows = []
    for score in evaluation.classes:
        if score.name in evaluation.undefined:
            continue
        shown = {name: _interval(interval) for name, interval in score.metrics.items()}
        shown |= {name: _number(score.metrics[name].value) for name in ("precision", "recall") if single}
        shown["lift"] = f"{score.lift:.1f}"
        n_undefined = score.metrics[metrics[0]].n_undefined
        row = [score.name, score.group, f"{score.n_positive:,}", f"{score.prevalence:.2%}"]
        rows.append([*row, *(shown[name] for name in metrics), str(n_undefined or "")])
    headings = [
        "class",
        "group",
        "rows" if single else "positives",
        "prevalence",
        *metrics,
        "undefined draws",
    ]
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
