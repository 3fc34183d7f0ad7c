"""The kinds of ensembles: each fitted without every fold, scored on what it had not seen, and one chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.combine import Evidence, combined, evidence_of
from cxrlt.ensembles.context import CONTEXT
from cxrlt.ensembles.selection import class_weights, greedy_weights
from cxrlt.ensembles.stacking import fit_stack
from cxrlt.ensembles.weights import Candidate, Combination
from cxrlt.folds.rows import TrainRows
from cxrlt.metrics import Interval, paired_difference
from cxrlt.predictions.scoring import draw_figures
from cxrlt.predictions.standardise import oof_scores, score_of
from cxrlt.predictions.study_mean import StudyMean

STACK_CONTEXT = "stack_context"
BY_SIMPLICITY = ("mean", "greedy", "per_class", "stack", STACK_CONTEXT)
N_DRAWS = 1000


@dataclass(frozen=True)
class CrossFitted:
    """A kind fitted on all rows and without each fold, and the scores of every row without its fold."""

    final: Combination
    by_fold: tuple[Combination, ...]
    scores: pd.DataFrame


def candidates(challenge: Challenge, n_members: int, context: bool) -> tuple[str, ...]:
    """The kinds that can differ, simplest first: of one member only its context can make anything else."""
    if challenge.task == "single_label":
        return BY_SIMPLICITY[: 2 if n_members > 1 else 1]
    plain = BY_SIMPLICITY[:4] if n_members > 1 else BY_SIMPLICITY[:1]
    return (*plain, STACK_CONTEXT) if context else plain


def cross_fit(
    kinds: Sequence[str],
    challenge: Challenge,
    frames: Mapping[str, pd.DataFrame],
    rows: TrainRows,
    study_mean: StudyMean,
) -> dict[str, CrossFitted]:
    """Every kind fitted on the members' out-of-fold scores: on all rows, and for each fold on the others'."""
    labels = rows.table[list(challenge.classes)].to_numpy(np.float64)
    fold_of, excluded = rows.fold.to_numpy(), (None, *range(rows.folds.n_folds))
    fitted: dict[int | None, dict[str, Combination]] = {}
    parts: dict[str, list[pd.DataFrame]] = {kind: [] for kind in kinds}
    for frontal in dict.fromkeys(map(study_mean.for_fold, excluded)):
        evidence = evidence_of(frames, rows.table, frontal, context=STACK_CONTEXT in kinds)
        for fold in (fold for fold in excluded if study_mean.for_fold(fold) == frontal):
            chosen = evidence.predicted & (True if fold is None else fold_of != fold)
            fitted[fold] = _fit(kinds, challenge, evidence.rows(chosen), labels[chosen])
            if fold is not None:
                for kind in kinds:
                    parts[kind].append(combined(evidence.rows(fold_of == fold), fitted[fold][kind]))
    return {
        kind: CrossFitted(
            fitted[None][kind],
            tuple(fitted[fold][kind] for fold in excluded[1:]),
            pd.concat(parts[kind]).loc[rows.table.index],
        )
        for kind in kinds
    }


def compare(
    challenge: Challenge, fitted: Mapping[str, CrossFitted], rows: TrainRows, n_draws: int = N_DRAWS
) -> dict[str, Candidate]:
    """Nested out-of-fold score of every kind, and how far it is behind the best: a paired difference.

    Patients are drawn, the same for every kind. All kinds predict the same rows.
    """
    pooled = {kind: oof_scores(each.scores, rows.fold, challenge.task) for kind, each in fitted.items()}
    scores = {kind: score_of(challenge, frame, rows.table) for kind, frame in pooled.items()}
    if len(scores) == 1:
        return {kind: Candidate(score, 0.0, 0.0, 0.0) for kind, score in scores.items()}
    table = rows.table.loc[next(iter(pooled.values())).index]
    labels = table[list(challenge.classes)].to_numpy(np.float64)
    clusters = table["patient"]
    clusters = np.arange(len(table)) if clusters.isna().any() else clusters.to_numpy(str)
    draws = {
        kind: draw_figures(challenge, labels, frame.to_numpy(), clusters, n_draws).overall[challenge.metric]
        for kind, frame in pooled.items()
    }
    best = max(draws, key=lambda kind: draws[kind].value)
    behind = {kind: paired_difference(draws[best], each) for kind, each in draws.items()}
    return {kind: Candidate(scores[kind], *_numbers(behind[kind])) for kind in draws}


def choose(nested: Mapping[str, Candidate]) -> tuple[str, str]:
    """The simplest kind that is not clearly behind the best, and a sentence's part that says why."""
    best = min(nested, key=lambda kind: nested[kind].behind)
    chosen = next((kind for kind in BY_SIMPLICITY if kind in nested and nested[kind].low <= 0), best)
    if len(nested) == 1:
        return chosen, "one member has nothing to be weighed against"
    figures = nested[chosen]
    if chosen == best:
        simpler = [kind for kind in BY_SIMPLICITY[: BY_SIMPLICITY.index(best)] if kind in nested]
        clearly = f", and clearly better than the simpler {', '.join(simpler)}" if simpler else ""
        return chosen, f"the best{clearly or ', and the simplest'}"
    return chosen, (
        f"the simplest that is not clearly behind the best, {best}: "
        f"{figures.behind:.4f} [{figures.low:.4f}, {figures.high:.4f}]"
    )


def _numbers(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _fit(
    kinds: Sequence[str], challenge: Challenge, evidence: Evidence, labels: NDArray[np.float64]
) -> dict[str, Combination]:
    """Every kind on these rows, all of them predicted; the greedy weights are found once."""
    fitted, n_members = {}, len(evidence.members)
    for kind in kinds:
        if kind == "mean":
            fitted[kind] = _shared(evidence, np.full(n_members, 1 / n_members))
        elif kind in ("stack", STACK_CONTEXT):
            fitted[kind] = _stack(evidence, labels, with_context=kind == STACK_CONTEXT)
    if {"greedy", "per_class"} & set(kinds):
        members = np.ascontiguousarray(evidence.scores, dtype=np.float32)
        overall = greedy_weights(members, labels, challenge.metric, challenge.task)
        fitted["greedy"] = _shared(evidence, overall)
        if "per_class" in kinds:
            by_class = class_weights(members, labels, challenge.metric, overall)
            fitted["per_class"] = Combination(_frame(evidence, by_class))
    return fitted


def _shared(evidence: Evidence, weights: NDArray[np.float64]) -> Combination:
    return Combination(_frame(evidence, np.tile(weights, (len(evidence.classes), 1))))


def _stack(evidence: Evidence, labels: NDArray[np.float64], *, with_context: bool) -> Combination:
    stacks = [
        fit_stack(
            evidence.scores[:, c].T, labels[:, c], evidence.context.for_class(c) if with_context else None
        )
        for c in range(len(evidence.classes))
    ]
    classes = list(evidence.classes)
    context = pd.DataFrame([stack.context for stack in stacks], classes, CONTEXT) if with_context else None
    return Combination(
        _frame(evidence, np.array([stack.weights for stack in stacks])),
        pd.Series([stack.bias for stack in stacks], classes),
        context,
    )


def _frame(evidence: Evidence, weights: NDArray[np.float64]) -> pd.DataFrame:
    return pd.DataFrame(weights, list(evidence.classes), list(evidence.members))
