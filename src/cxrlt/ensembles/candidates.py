"""The kinds of ensembles: cross-fit each kind over the folds, compare their nested scores, and choose one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.combine import MemberScores, collect_member_scores, combine_scores
from cxrlt.ensembles.context import CONTEXT_FEATURES
from cxrlt.ensembles.selection import greedy_weights, per_class_weights
from cxrlt.ensembles.stacking import fit_stack
from cxrlt.ensembles.weights import Combination, NestedScore
from cxrlt.folds.rows import TrainRows
from cxrlt.metrics import Interval, paired_difference
from cxrlt.predictions.scoring import N_DRAWS, bootstrap_metrics
from cxrlt.predictions.standardise import macro_score, pool_oof_scores
from cxrlt.predictions.study_mean import StudyMean

STACK_CONTEXT = "stack_context"
KINDS = ("mean", "greedy", "per_class", "stack", STACK_CONTEXT)
"""From the simplest to the most flexible."""


@dataclass(frozen=True)
class CrossFitted:
    """A kind fitted on all rows (`final`) and without each fold (`by_fold`).

    `scores` (index image_id, one column per class): every row scored by the fit without the row's fold.
    """

    final: Combination
    by_fold: tuple[Combination, ...]
    scores: pd.DataFrame


def candidate_kinds(challenge: Challenge, n_members: int, context: bool) -> tuple[str, ...]:
    """Return the kinds to fit, simplest first. With one member all kinds without context are the same."""
    if challenge.task == "single_label":
        return KINDS[: 2 if n_members > 1 else 1]
    plain = KINDS[:4] if n_members > 1 else KINDS[:1]
    return (*plain, STACK_CONTEXT) if context else plain


def cross_fit(
    kinds: Sequence[str],
    challenge: Challenge,
    frames: Mapping[str, pd.DataFrame],
    rows: TrainRows,
    study_mean: StudyMean,
) -> dict[str, CrossFitted]:
    """Fit every kind on the members' out-of-fold scores: on all rows, and without each fold.

    `frames` are the scores of each member (index image_id, one column per class), with the rows of `rows`.
    """
    labels = rows.table[list(challenge.classes)].to_numpy(np.float64)
    fold_of, excluded = rows.fold.to_numpy(), (None, *range(rows.folds.n_folds))
    with_context = STACK_CONTEXT in kinds
    fitted: dict[int | None, dict[str, Combination]] = {}
    parts: dict[str, list[pd.DataFrame]] = {kind: [] for kind in kinds}
    for frontal_weight in dict.fromkeys(map(study_mean.for_fold, excluded)):
        member_scores = collect_member_scores(frames, rows.table, frontal_weight, context=with_context)
        for fold in (fold for fold in excluded if study_mean.for_fold(fold) == frontal_weight):
            train = member_scores.predicted & (True if fold is None else fold_of != fold)
            fitted[fold] = _fit_kinds(kinds, challenge, member_scores.select(train), labels[train])
            if fold is not None:
                held_out = member_scores.select(fold_of == fold)
                for kind in kinds:
                    parts[kind].append(combine_scores(held_out, fitted[fold][kind]))
    return {
        kind: CrossFitted(
            fitted[None][kind],
            tuple(fitted[fold][kind] for fold in excluded[1:]),
            pd.concat(parts[kind]).loc[rows.table.index],
        )
        for kind in kinds
    }


def compare_kinds(
    challenge: Challenge, fitted: Mapping[str, CrossFitted], rows: TrainRows, n_draws: int = N_DRAWS
) -> dict[str, NestedScore]:
    """Return the nested out-of-fold score of every kind, and its paired difference to the best kind.

    The bootstrap resamples patients, the same ones for every kind. All kinds must predict the same rows.
    """
    pooled = {kind: pool_oof_scores(each.scores, rows.fold, challenge.task) for kind, each in fitted.items()}
    scores = {kind: macro_score(challenge, frame, rows.table) for kind, frame in pooled.items()}
    if len(scores) == 1:
        return {kind: NestedScore(score, 0.0, 0.0, 0.0) for kind, score in scores.items()}
    table = rows.table.loc[next(iter(pooled.values())).index]
    labels = table[list(challenge.classes)].to_numpy(np.float64)
    patients = table["patient"]
    clusters = np.arange(len(table)) if patients.isna().any() else patients.to_numpy(str)
    draws = {
        kind: bootstrap_metrics(challenge, labels, frame.to_numpy(), clusters, n_draws).overall[
            challenge.metric
        ]
        for kind, frame in pooled.items()
    }
    best = max(draws, key=lambda kind: draws[kind].value)
    behind = {kind: paired_difference(draws[best], each) for kind, each in draws.items()}
    return {kind: NestedScore(scores[kind], *_numbers(behind[kind])) for kind in draws}


def choose_kind(nested: Mapping[str, NestedScore]) -> tuple[str, str]:
    """Return the simplest kind that is not clearly worse than the best, and the reason in words."""
    best = min(nested, key=lambda kind: nested[kind].behind)
    chosen = next((kind for kind in KINDS if kind in nested and nested[kind].low <= 0), best)
    if len(nested) == 1:
        return chosen, "the only kind for one member"
    score = nested[chosen]
    if chosen == best:
        simpler = [kind for kind in KINDS[: KINDS.index(best)] if kind in nested]
        clearly = f", and clearly better than the simpler {', '.join(simpler)}" if simpler else ""
        return chosen, f"the best{clearly or ', and the simplest'}"
    return chosen, (
        f"the simplest that is not clearly worse than the best, {best}: "
        f"{score.behind:.4f} [{score.low:.4f}, {score.high:.4f}]"
    )


def _numbers(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _fit_kinds(
    kinds: Sequence[str], challenge: Challenge, member_scores: MemberScores, labels: NDArray[np.float64]
) -> dict[str, Combination]:
    """Fit every kind on rows that all members predict; the greedy weights are computed once."""
    fitted, n_members = {}, len(member_scores.members)
    for kind in kinds:
        if kind == "mean":
            fitted[kind] = _same_for_all_classes(member_scores, np.full(n_members, 1 / n_members))
        elif kind in ("stack", STACK_CONTEXT):
            fitted[kind] = _stack(member_scores, labels, with_context=kind == STACK_CONTEXT)
    if {"greedy", "per_class"} & set(kinds):
        members = list(np.ascontiguousarray(member_scores.scores, dtype=np.float32))
        overall = greedy_weights(members, labels, challenge.metric, challenge.task)
        fitted["greedy"] = _same_for_all_classes(member_scores, overall)
        if "per_class" in kinds:
            by_class = per_class_weights(members, labels, challenge.metric, overall)
            fitted["per_class"] = Combination(_frame(member_scores, by_class))
    return fitted


def _same_for_all_classes(member_scores: MemberScores, weights: NDArray[np.float64]) -> Combination:
    return Combination(_frame(member_scores, np.tile(weights, (len(member_scores.classes), 1))))


def _stack(member_scores: MemberScores, labels: NDArray[np.float64], *, with_context: bool) -> Combination:
    classes, context = list(member_scores.classes), member_scores.context if with_context else None
    stacks = [
        fit_stack(
            member_scores.scores[:, c].T, labels[:, c], None if context is None else context.for_class(c)
        )
        for c in range(len(classes))
    ]
    coefficients = [stack.context for stack in stacks]
    return Combination(
        _frame(member_scores, np.array([stack.weights for stack in stacks])),
        pd.Series([stack.bias for stack in stacks], classes),
        None if context is None else pd.DataFrame(coefficients, classes, CONTEXT_FEATURES),
    )


def _frame(member_scores: MemberScores, weights: NDArray[np.float64]) -> pd.DataFrame:
    return pd.DataFrame(weights, list(member_scores.classes), list(member_scores.members))
