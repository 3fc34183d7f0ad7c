"""Scores as text that a person reads in a terminal."""

from collections.abc import Sequence

import numpy as np

from cxrlt.metrics import Interval
from cxrlt.predictions.evaluate import Leaderboard
from cxrlt.predictions.scoring import Evaluation, MacroScore


def score_table(evaluation: Evaluation) -> str:
    """One model, ensemble or file: macro means with their intervals, then every class."""
    patients = "" if evaluation.n_patients is None else f", {evaluation.n_patients:,} patients"
    title = f"{evaluation.name} on {evaluation.challenge} {evaluation.split}: "
    title += f"{evaluation.n_rows:,} rows{patients}"
    if evaluation.study_mean is not None:
        title += f"; {'' if evaluation.study_mean else 'not '}averaged over studies"
    groups = {"all": evaluation.overall} | evaluation.groups
    macro_rows = [_macro_row(name, group) for name, group in groups.items() if group.n_classes]
    class_rows = [
        [
            score.name,
            score.group,
            f"{score.n_positive:,}",
            f"{score.prevalence:.2%}",
            _interval(score.ap),
            f"{score.lift:.1f}",
            _interval(score.auroc),
            str(score.ap.n_left_out or ""),
        ]
        for score in evaluation.classes
        if score.name not in evaluation.undefined
    ]
    blocks = [
        "\n".join([title, *_oof_lines(evaluation)]),
        _aligned(["classes", "n", "mAP", "mAUROC"], macro_rows, n_text=1),
        _aligned(
            ["class", "group", "positives", "share", "AP", "lift", "AUROC", "draws without"],
            class_rows,
            n_text=2,
        ),
    ]
    notes = [f"note: {note}" for note in evaluation.notes]
    if evaluation.undefined:
        notes.append(f"left out of every mean, without both values: {', '.join(evaluation.undefined)}")
    return "\n\n".join([*blocks, "\n".join(notes)] if notes else blocks)


def leaderboard_table(board: Leaderboard) -> str:
    """Everything trained, best first, with how far the best is ahead of each."""
    oof = board.split == "oof"
    headings = ["name", f"{board.split} mAP", "best ahead by", "mAUROC", "head", "medium", "tail"]
    headings += ["raw pooled", "mean over folds"] if oof else []
    rows = [
        [
            evaluation.name + ("*" if evaluation.notes else ""),
            _interval(evaluation.overall.ap),
            _interval(difference) if place else "",
            _interval(evaluation.overall.auroc),
            *(_number(evaluation.groups[group].ap.value) for group in ("head", "medium", "tail")),
            *([_number(evaluation.raw_pooled), _number(evaluation.mean_over_folds)] if oof else []),
        ]
        for place, (evaluation, difference) in enumerate(
            zip(board.evaluations, board.differences, strict=True)
        )
    ]
    lines = [_aligned(headings, rows, n_text=1)]
    lines += [f"* {item.name}: {note}" for item in board.evaluations for note in item.notes]
    lines += [f"not scored: {name}: {reason}" for name, reason in board.left_out.items()]
    return "\n".join(lines)


def _oof_lines(evaluation: Evaluation) -> list[str]:
    """What stands beside the defined out-of-fold score."""
    if not evaluation.per_fold:
        return []
    folds = ", ".join(_number(ap) for ap, _ in evaluation.per_fold)
    spread = np.nanstd([ap for ap, _ in evaluation.per_fold])
    beside = f"mean over folds {_number(evaluation.mean_over_folds)} ({folds}; s.d. {spread:.4f})"
    if evaluation.raw_pooled is not None:
        beside = f"raw logits pooled {_number(evaluation.raw_pooled)}; {beside}"
    return [f"beside the mAP below, which is over pooled standardised logits: {beside}"]


def _macro_row(name: str, score: MacroScore) -> list[str]:
    return [name, str(score.n_classes), _interval(score.ap), _interval(score.auroc)]


def _interval(interval: Interval) -> str:
    if np.isnan(interval.value):
        return "-"
    return f"{_number(interval.value)} [{_number(interval.low)}, {_number(interval.high)}]"


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"


def _aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], n_text: int) -> str:
    """Columns of equal width: the first `n_text` flush left, numbers flush right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in [headings, *rows]:
        cells = [
            cell.ljust(width) if column < n_text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
