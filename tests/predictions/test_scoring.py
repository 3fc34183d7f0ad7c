import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from cxrlt.errors import UserError
from cxrlt.predictions.scoring import score_frame
from cxrlt.reports.score_table import score_table
from tiny import SimulatedRuns


def probabilities(truth: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    logits = 2 * truth + np.random.default_rng(seed).normal(size=truth.shape)
    return 1 / (1 + np.exp(-logits))


@pytest.fixture
def truth(runs: SimulatedRuns) -> pd.DataFrame:
    return runs.table("test")[list(runs.challenge.classes)]


def test_a_file_is_scored_by_id_and_class_name_in_any_order(runs: SimulatedRuns, truth: pd.DataFrame) -> None:
    scores = probabilities(truth)
    evaluation = score_frame(runs.challenge, scores, truth, n_draws=20)
    shuffled = scores.sample(frac=1, random_state=0)[["Hernia", "Effusion", "Mass"]]
    again = score_frame(runs.challenge, shuffled, truth, n_draws=20)
    assert again.to_json() == evaluation.to_json()
    assert evaluation.overall.metrics["mAP"].value == pytest.approx(
        average_precision_score(truth, scores), abs=1e-9
    )


def test_rows_without_a_truth_do_not_count(runs: SimulatedRuns, truth: pd.DataFrame) -> None:
    scores = probabilities(truth)
    part = score_frame(runs.challenge, scores, truth[:150], n_draws=20)
    alone = score_frame(runs.challenge, scores[:150], truth[:150], n_draws=20)
    assert part.n_rows == 150
    assert part.to_json() == alone.to_json()


def test_patients_are_drawn_whole_where_they_are_known(runs: SimulatedRuns, truth: pd.DataFrame) -> None:
    scores, patients = probabilities(truth), runs.table("test")["patient"]
    by_patient = score_frame(runs.challenge, scores, truth, patients, n_draws=50)
    by_row = score_frame(runs.challenge, scores, truth, n_draws=50)
    assert (by_patient.n_patients, by_row.n_patients) == (patients.nunique(), None)
    assert by_patient.overall.metrics["mAP"].value == by_row.overall.metrics["mAP"].value
    assert by_patient.overall.metrics["mAP"].low != by_row.overall.metrics["mAP"].low


def test_labels_that_are_not_annotated_do_not_count(runs: SimulatedRuns, truth: pd.DataFrame) -> None:
    blank = truth.copy()
    blank.iloc[::2, 0] = np.nan
    scores = probabilities(truth)
    effusion = score_frame(runs.challenge, scores, blank, n_draws=20).classes[0]
    assert effusion.n_known == truth.shape[0] // 2
    expected = average_precision_score(truth.iloc[1::2, 0], scores.iloc[1::2, 0])
    assert effusion.metrics["AP"].value == pytest.approx(expected, abs=1e-9)


def test_a_file_that_does_not_cover_the_truth_is_an_error(runs: SimulatedRuns, truth: pd.DataFrame) -> None:
    scores = probabilities(truth)
    with pytest.raises(UserError, match=f"lacks rows of the truth: {truth.index[7]}"):
        score_frame(runs.challenge, scores.drop(truth.index[7]), truth)
    with pytest.raises(UserError, match="lacks classes of csv: Mass"):
        score_frame(runs.challenge, scores.drop(columns="Mass"), truth)
    blank = scores.copy()
    blank.iloc[3, 1] = np.nan
    with pytest.raises(UserError, match=f"without a probability: {truth.index[3]}"):
        score_frame(runs.challenge, blank, truth)
    with pytest.raises(UserError, match="no class has both"):
        score_frame(runs.challenge, scores, truth * 0)


def test_the_table_names_every_class_with_its_group_and_interval(
    runs: SimulatedRuns, truth: pd.DataFrame
) -> None:
    evaluation = score_frame(runs.challenge, probabilities(truth), truth, name="mine", n_draws=20)
    text = score_table(evaluation)
    assert text.startswith("mine on csv truth: ")
    for score in evaluation.classes:
        line = next(line for line in text.splitlines() if line.startswith(score.name))
        assert score.group in line
        assert (
            f"{score.metrics['AP'].value:.4f} [{score.metrics['AP'].low:.4f}, {score.metrics['AP'].high:.4f}]"
            in line
        )
