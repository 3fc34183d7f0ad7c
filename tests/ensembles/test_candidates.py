"""The kinds of ensembles find the structure that the simulated data has, and the right kind is chosen."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.candidates import (
    KINDS,
    STACK_CONTEXT,
    CrossFitted,
    candidate_kinds,
    choose_kind,
    compare_kinds,
    cross_fit,
)
from cxrlt.ensembles.selection import SHRINKAGE_POSITIVES
from cxrlt.ensembles.weights import NestedScore
from cxrlt.folds.read import Folds, FoldsRecord, SplitIdentity
from cxrlt.folds.rows import TrainRows
from cxrlt.metrics import average_precision
from cxrlt.predictions.standardise import pool_oof_scores
from cxrlt.predictions.study_mean import fixed_study_mean
from tiny import CLASSES, SimulatedRuns

PREVALENCE = (0.2, 0.1, 0.004)
OFF = fixed_study_mean("off", 3, "")


@pytest.fixture
def challenge(runs: SimulatedRuns) -> Challenge:
    return runs.challenge


def train_rows(n_patients: int, n_studies: int = 1, persistence: float = 0.0, seed: int = 0) -> TrainRows:
    """Patients with studies of one image, in three folds; a label is the patient's with that probability."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), n_studies)
    own = rng.random((len(patient), 3)) < PREVALENCE
    of_patient = (rng.random((n_patients, 3)) < PREVALENCE)[patient]
    labels = np.where(rng.random(own.shape) < persistence, of_patient, own)
    table = pd.DataFrame(labels.astype(np.float32), columns=CLASSES)
    table.index = table.index.astype(str)
    table = table.assign(patient=patient.astype(str), study=table.index, view="frontal", fold=patient % 3)
    frame = table[["patient", "fold"]]
    made = FoldsRecord(challenge="csv", n_folds=3, seed=0, sha256="0" * 64)
    return TrainRows(Folds(frame, SplitIdentity(frame), made), table)


def member(rows: TrainRows, skills: tuple[float, float, float], seed: int) -> pd.DataFrame:
    labels = rows.table[CLASSES]
    noise = np.random.default_rng(seed).normal(size=labels.shape)
    return labels.astype(float) * np.array(skills) + noise


def fit(
    challenge: Challenge, rows: TrainRows, frames: Mapping[str, pd.DataFrame], context: bool = False
) -> tuple[dict[str, CrossFitted], dict[str, NestedScore]]:
    fitted = cross_fit(candidate_kinds(challenge, len(frames), context), challenge, frames, rows, OFF)
    return fitted, compare_kinds(challenge, fitted, rows, n_draws=200)


def test_members_that_know_different_classes_are_found_by_weights_per_class_and_by_stacking(
    challenge: Challenge,
) -> None:
    rows = train_rows(6000)
    frames = {"a": member(rows, (2.5, 0, 1.5), seed=1), "b": member(rows, (0, 2.5, 1.5), seed=2)}
    fitted, nested = fit(challenge, rows, frames)
    for kind in ("per_class", "stack"):
        weights = fitted[kind].final.weights
        assert weights.loc["Effusion", "a"] > 3 * abs(weights.loc["Effusion", "b"])
        assert weights.loc["Mass", "b"] > 3 * abs(weights.loc["Mass", "a"])
        assert nested[kind].score > max(nested["mean"].score, nested["greedy"].score) + 0.03
    kind, why = choose_kind(nested)
    assert kind == "per_class"
    assert nested["greedy"].low > 0
    assert "not clearly worse" in why or "clearly better than the simpler mean, greedy" in why


def test_equally_good_members_get_the_plain_mean(challenge: Challenge) -> None:
    rows = train_rows(3000)
    frames = {name: member(rows, (1.5, 1.5, 1.5), seed) for seed, name in enumerate("abc")}
    _, nested = fit(challenge, rows, frames)
    assert choose_kind(nested)[0] == "mean"
    assert nested["mean"].low <= 0


def test_a_class_of_few_positives_is_shrunk_to_what_all_classes_share(challenge: Challenge) -> None:
    rows = train_rows(3000)
    n_positive = int(rows.table["Hernia"].sum())
    assert 0 < n_positive < 25
    # by chance of its few positives Hernia seems to need nothing but b
    frames = {"a": member(rows, (1.5, 1.5, 0), seed=1), "b": member(rows, (1.5, 1.5, 8), seed=2)}
    fitted, _ = fit(challenge, rows, frames)
    shared = fitted["greedy"].final.weights.loc["Hernia", "b"]
    moved = fitted["per_class"].final.weights.loc["Hernia", "b"] - shared
    assert 0 < moved <= n_positive / (n_positive + SHRINKAGE_POSITIVES) + 1e-12
    assert fitted["per_class"].final.weights.sum(axis=1).to_list() == pytest.approx([1, 1, 1])


def test_other_studies_of_the_patient_help_where_findings_last(challenge: Challenge) -> None:
    rows = train_rows(1500, n_studies=4, persistence=0.95)
    fitted, nested = fit(challenge, rows, {"a": member(rows, (1.5, 1.5, 1.5), seed=1)}, context=True)
    coefficients = fitted[STACK_CONTEXT].final.context["other_studies"]
    assert (coefficients[["Effusion", "Mass"]] > 0.3).all()
    assert nested[STACK_CONTEXT].score > nested["mean"].score + 0.05
    kind, why = choose_kind(nested)
    assert kind == STACK_CONTEXT
    assert "clearly better than the simpler mean" in why


def test_other_studies_of_the_patient_are_ignored_if_uninformative(challenge: Challenge) -> None:
    rows = train_rows(1500, n_studies=4)
    frames = {"a": member(rows, (1.5, 1.5, 1.5), seed=1), "b": member(rows, (1.5, 1.5, 1.5), seed=2)}
    fitted, nested = fit(challenge, rows, frames, context=True)
    coefficients = fitted[STACK_CONTEXT].final.context["other_studies"]
    assert coefficients[["Effusion", "Mass"]].abs().max() < 0.1
    assert nested[STACK_CONTEXT].score > nested["stack"].score - 0.01
    assert choose_kind(nested)[0] == "mean"


def test_rows_are_scored_by_what_was_fitted_without_their_fold(challenge: Challenge) -> None:
    rows = train_rows(600)
    frames = {"a": member(rows, (1.5, 1, 1), seed=1), "b": member(rows, (1, 1.5, 1), seed=2)}
    fitted, _ = fit(challenge, rows, frames)
    for kind in ("greedy", "per_class", "stack"):
        for fold in range(3):
            inside = rows.fold == fold
            how = fitted[kind].by_fold[fold]
            expected = sum(how.weights[name] * frame[inside] for name, frame in frames.items())
            expected = expected if how.bias is None else expected + how.bias
            np.testing.assert_allclose(fitted[kind].scores[inside], expected)


def test_an_unread_image_is_fitted_on_by_nobody_and_stays_without_scores(challenge: Challenge) -> None:
    rows = train_rows(600)
    frames = {"a": member(rows, (1.5, 1, 1), seed=1), "b": member(rows, (1, 1.5, 1), seed=2)}
    frames = {name: frame.mask(frame.index.to_series() == "7") for name, frame in frames.items()}
    fitted, nested = fit(challenge, rows, frames, context=True)
    for each in fitted.values():
        assert each.scores.isna().any(axis=1).to_numpy().nonzero()[0].tolist() == [7]
    assert all(np.isfinite(figures.score) for figures in nested.values())


def test_only_what_can_differ_is_tried(challenge: Challenge) -> None:
    assert candidate_kinds(challenge, 2, context=False) == ("mean", "greedy", "per_class", "stack")
    assert candidate_kinds(challenge, 2, context=True) == KINDS
    assert candidate_kinds(challenge, 1, context=False) == ("mean",)
    assert candidate_kinds(challenge, 1, context=True) == ("mean", STACK_CONTEXT)


@pytest.mark.parametrize(
    ("lows", "expected"),
    [
        ({"mean": -0.01, "greedy": -0.02, "per_class": 0.0}, "mean"),
        ({"mean": 0.001, "greedy": -0.02, "per_class": 0.0}, "greedy"),
        ({"mean": 0.001, "greedy": 0.002, "per_class": 0.0}, "per_class"),
    ],
)
def test_the_simplest_kind_within_noise_of_the_best_is_chosen(lows: dict[str, float], expected: str) -> None:
    behind = {"mean": 0.03, "greedy": 0.01, "per_class": 0.0}
    nested = {kind: NestedScore(0.5 - behind[kind], behind[kind], low, 0.05) for kind, low in lows.items()}
    kind, why = choose_kind(nested)
    assert kind == expected
    assert ("not clearly worse than the best, per_class" in why) == (expected != "per_class")


def test_a_class_with_positives_and_blanks_only_is_in_no_nested_score(challenge: Challenge) -> None:
    rows = train_rows(600)
    frames = {name: member(rows, (1.5, 1.5, 1.5), seed) for seed, name in enumerate("ab")}
    blank = rows.table.assign(Effusion=rows.table["Effusion"].where(rows.table["Effusion"] == 1))
    rows = TrainRows(rows.folds, blank)
    fitted, nested = fit(challenge, rows, frames)
    for kind, each in fitted.items():
        pooled = pool_oof_scores(each.scores, rows.fold, challenge.task)
        ap = average_precision(blank[CLASSES[1:]], pooled[CLASSES[1:]])
        assert nested[kind].score == pytest.approx(ap.mean())
    best = max(each.score for each in nested.values())
    for each in nested.values():
        assert each.behind == pytest.approx(best - each.score)


def test_the_labels_of_a_fold_do_not_influence_the_fit_without_it(challenge: Challenge) -> None:
    rows = train_rows(600)
    frames = {"a": member(rows, (1.5, 1, 1), seed=1), "b": member(rows, (1, 1.5, 1), seed=2)}
    turned = rows.table.copy()
    inside = turned["fold"] == 0
    turned.loc[inside, list(CLASSES)] = 1 - turned.loc[inside, list(CLASSES)]
    before, _ = fit(challenge, rows, frames)
    after, _ = fit(challenge, TrainRows(rows.folds, turned), frames)
    for kind in ("greedy", "per_class", "stack"):
        assert after[kind].by_fold[0].weights.equals(before[kind].by_fold[0].weights)
    assert not after["stack"].by_fold[1].weights.equals(before["stack"].by_fold[1].weights)
    assert not after["stack"].final.weights.equals(before["stack"].final.weights)
