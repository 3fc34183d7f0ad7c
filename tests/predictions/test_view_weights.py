from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from cxrlt.challenges import get_challenge
from cxrlt.predictions.study_mean import CANDIDATE_WEIGHTS, StudyMean, choose_study_mean, study_mean
from tiny import oof_score

CHALLENGE = get_challenge("demo")
CLASSES = list(CHALLENGE.classes)


def draw(noise_of_lateral: float, n_studies: int = 900, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores and table of studies of two images, frontal with noise 1 and lateral with another."""
    rng = np.random.default_rng(seed)
    labels = np.repeat((rng.random((n_studies, len(CLASSES))) < 0.2).astype(np.float32), 2, axis=0)
    table = pd.DataFrame(labels, columns=CLASSES).rename("{}".format)
    study = np.repeat(np.arange(n_studies), 2)
    table = table.assign(patient=study.astype(str), study="s", fold=study % 3)
    table["view"] = np.tile(["frontal", "lateral"], n_studies)
    spread = np.where(table["view"] == "frontal", 1, noise_of_lateral)[:, None]
    scores = 1.5 * labels + spread * rng.normal(size=labels.shape)
    return pd.DataFrame(scores, table.index, CLASSES), table


def frontal_alone(scores: pd.DataFrame, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return scores[table["view"] == "frontal"], table[table["view"] == "frontal"]


@pytest.mark.parametrize(("noise", "expected"), [(1.0, (0.5,)), (1.5, (0.6, 0.7)), (30.0, (1.0,))])
def test_the_search_finds_the_weights_that_the_noise_of_the_views_asks_for(
    noise: float, expected: tuple[float, ...]
) -> None:
    chosen = choose_study_mean(CHALLENGE, *draw(noise), "search")
    assert chosen.final in expected
    assert f"{10 * chosen.final:g}:" in chosen.text


def test_auto_averages_8_to_2_where_that_raises_the_score() -> None:
    assert choose_study_mean(CHALLENGE, *draw(1.0), "auto").final == 0.8
    assert choose_study_mean(CHALLENGE, *draw(100.0), "auto").final is None


def test_every_fold_gets_the_weights_that_are_best_on_the_other_folds() -> None:
    scores, table = draw(1.2, n_studies=60, seed=2)
    chosen = choose_study_mean(CHALLENGE, scores, table, "search")

    def value(frontal_weight: float | None, inside: pd.Series) -> float:
        frame = (
            scores[inside] if frontal_weight is None else study_mean(scores[inside], table, frontal_weight)
        )
        return oof_score(CHALLENGE, frame, table, table["fold"][inside])

    for fold in range(3):
        inside = table["fold"] != fold
        assert chosen.by_fold[fold] == max(
            CANDIDATE_WEIGHTS["search"], key=lambda share: value(share, inside)
        )
    assert chosen.final == max(
        CANDIDATE_WEIGHTS["search"], key=lambda share: value(share, table["fold"] >= 0)
    )
    assert len(set(chosen.by_fold)) > 1
    assert "by fold" in chosen.text


@pytest.mark.parametrize("option", ["auto", "search"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (draw, "have other labels than another image"),
        (lambda noise: frontal_alone(*draw(noise)), "no study has more than one image"),
    ],
)
def test_nothing_is_averaged_where_truth_is_of_images_or_studies_have_one(
    option: str, change: Callable, reason: str
) -> None:
    scores, table = change(1.0)
    table.iloc[0, 0] = 1 - table.iloc[0, 0]
    table.iloc[-1, 0] = 1 - table.iloc[-1, 0]
    chosen = choose_study_mean(CHALLENGE, scores, table, option)
    assert chosen.final is None and set(chosen.by_fold) == {None}
    assert reason in chosen.text


def test_the_option_on_averages_even_if_labels_differ_within_a_study() -> None:
    scores, table = draw(1.0)
    table.iloc[0, 0] = 1 - table.iloc[0, 0]
    assert choose_study_mean(CHALLENGE, scores, table, "on") == StudyMean(
        option="on", final=0.8, by_fold=(0.8,) * 3, why="as requested"
    )


def test_unknown_labels_dispute_nothing() -> None:
    scores, table = draw(1.0)
    table.iloc[0, 0] = np.nan
    assert choose_study_mean(CHALLENGE, scores, table, "auto").final == 0.8


def test_the_labels_of_a_fold_do_not_influence_its_own_weights() -> None:
    scores, table = draw(1.2, n_studies=60, seed=2)
    before = choose_study_mean(CHALLENGE, scores, table, "search")
    others_change = False
    for fold in range(3):
        inside = (table["fold"] == fold).to_numpy()
        shuffled = table.copy()
        shuffled.loc[inside, CLASSES] = shuffled.loc[inside, CLASSES].to_numpy()[::-1][
            np.arange(inside.sum()) // 3
        ]
        after = choose_study_mean(CHALLENGE, scores, shuffled, "search")
        assert after.by_fold[fold] == before.by_fold[fold]
        others_change |= after != before
    assert others_change


def test_a_class_with_positives_and_blanks_only_is_not_in_the_scores_that_are_compared() -> None:
    scores, table = draw(1.0, n_studies=300)
    only, rest = CLASSES[:1], CLASSES[1:]
    table[only] = table[only].where(table[only] == 1)
    expected = [
        oof_score(CHALLENGE, frame[rest], table, table["fold"])
        for frame in (study_mean(scores, table), scores)
    ]
    chosen = choose_study_mean(CHALLENGE, scores, table, "auto")
    assert chosen.why == "out-of-fold mAP {:.4f} with the mean, {:.4f} without".format(*expected)


def test_the_weights_that_are_tried_are_shares_of_frontal_images_of_one_half_or_more() -> None:
    assert CANDIDATE_WEIGHTS["auto"] == (None, 0.8)
    shares = [share for share in CANDIDATE_WEIGHTS["search"] if share is not None]
    assert sorted(shares) == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_the_text_of_a_choice_has_the_ratio_and_those_of_differing_folds() -> None:
    choice = StudyMean(option="search", final=0.8, by_fold=(0.8, None, 1.0), why="as requested")
    assert choice.text == (
        "averaged over studies, frontal:lateral 8:2, by fold 8:2, none, 10:0 (as requested)"
    )
