from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.predictions.postprocess import gate, label_graph, postprocess, smooth
from cxrlt.predictions.runs import read_final
from cxrlt.recipe import PredictConfig, Recipe
from tiny import CLASSES as SIMULATED
from tiny import SimulatedRuns

CLASSES = ["Effusion", "Mass", "No Finding"]


def frame(values: list[list[float]]) -> pd.DataFrame:
    ids = [f"i{row}" for row in range(len(values))]
    return pd.DataFrame(values, index=ids, columns=CLASSES[: len(values[0])])


LABELS = frame([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1], [0, np.nan, 0]])


@pytest.fixture
def chest(tmp_path) -> Challenge:
    return replace(get_challenge("cxrlt2023", tmp_path), train_counts=dict.fromkeys(CLASSES, 1))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_gate_multiplies_findings_by_the_absence_of_no_finding(power: float) -> None:
    p = frame([[0.3, 0.6, 0.9], [0.5, 0.01, 0.2]])
    gated = expit(gate(logit(p), "No Finding", power))
    for name in ("Effusion", "Mass"):
        np.testing.assert_allclose(gated[name], p[name] * (1 - p["No Finding"]) ** power)
    np.testing.assert_allclose(gated["No Finding"], p["No Finding"])


def test_a_gate_of_logits_far_out_is_finite_and_keeps_their_order() -> None:
    logits = frame([[100, -100, 100], [90, -90, 100], [90, 90, -100]])
    gated = gate(logits, "No Finding", 1.0)
    assert np.isfinite(gated).all(axis=None)
    assert gated.loc["i0", "Effusion"] > gated.loc["i1", "Effusion"] - 1e-9
    assert gated.loc["i1", "Mass"] > gated.loc["i0", "Mass"]
    assert gated.loc["i2", "Mass"] == pytest.approx(90)


def test_the_label_graph_counts_who_is_there_with_whom() -> None:
    graph = label_graph(frame([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1]]))
    # of three effusions two have a mass and one no finding
    assert graph.loc["Effusion"].tolist() == pytest.approx([0, 2 / 3, 1 / 3])
    assert graph.loc["Mass"].tolist() == pytest.approx([2 / 3, 0, 1 / 3])
    np.testing.assert_allclose(graph.sum(axis=1), 1)


def test_unknown_labels_do_not_count_and_a_class_alone_is_its_own_neighbour() -> None:
    graph = label_graph(LABELS)
    assert graph.loc["Effusion"].tolist() == [0, 1, 0]
    assert graph.loc["No Finding"].tolist() == [0, 0, 1]
    without = label_graph(LABELS.iloc[:4])
    pd.testing.assert_frame_equal(graph, without)


def test_smoothing_mixes_a_probability_with_its_neighbours() -> None:
    p, graph = frame([[0.3, 0.6, 0.9]]), label_graph(LABELS)
    smoothed = expit(smooth(logit(p), graph, 0.1)).loc["i0"]
    assert smoothed.tolist() == pytest.approx([0.9 * 0.3 + 0.1 * 0.6, 0.9 * 0.6 + 0.1 * 0.3, 0.9])


def test_smoothing_of_logits_far_out_is_finite() -> None:
    assert np.isfinite(smooth(frame([[100, -100, 0]]), label_graph(LABELS), 0.1)).all(axis=None)
    values = frame([[-90.0, -100, 3]])
    np.testing.assert_allclose(smooth(values, label_graph(LABELS), 0.0), values)


def test_blank_rows_stay_blank(chest: Challenge) -> None:
    logits = frame([[0.1, 0.2, 0.3], [np.nan] * 3])
    done = postprocess(chest, logits, PredictConfig(gate=0.5, smooth=0.1), LABELS)
    assert done.notna().all(axis=1).tolist() == [True, False]


def test_nothing_is_done_unless_asked_for(chest: Challenge) -> None:
    logits = frame([[0.1, 0.2, 0.3]])
    assert postprocess(chest, logits, PredictConfig(), LABELS) is logits


def test_a_gate_needs_a_class_for_images_without_a_finding(chest: Challenge) -> None:
    bare = replace(chest, train_counts=dict.fromkeys(CLASSES[:2], 1))
    with pytest.raises(UserError, match="cxrlt2023 does not have: set it to 0"):
        postprocess(bare, frame([[0.1, 0.2]]), PredictConfig(gate=0.5), LABELS)
    single = replace(chest, task="single_label")
    with pytest.raises(UserError, match="one class per row"):
        postprocess(single, frame([[0.1, 0.2, 0.3]]), PredictConfig(smooth=0.5), LABELS)


def smoothed(runs: SimulatedRuns, share: float, name: str = "model") -> SimulatedRuns:
    runs.add_run(name, skill=2, recipe=Recipe(predict=PredictConfig(study_mean="off", smooth=share)))
    return runs


@pytest.mark.parametrize("split", ["oof", "dev", "test"])
def test_a_recipe_that_asks_for_it_is_smoothed_wherever_it_is_scored(runs: SimulatedRuns, split: str) -> None:
    smoothed(runs, 0.0, "plain")
    smoothed(runs, 0.2)
    plain, model = (
        read_final(runs.challenge, runs.workspace, name, split).logits for name in ("plain", "model")
    )
    table = runs.table("train")
    if split != "oof":
        expected = smooth(plain, label_graph(table[SIMULATED]), 0.2)
        np.testing.assert_allclose(model, expected, atol=1e-12)
    assert (model - plain).abs().to_numpy().min() > 0


def test_labels_of_a_fold_change_no_smoothed_logit_of_its_rows(runs: SimulatedRuns) -> None:
    smoothed(runs, 0.2)
    of = (runs.challenge, runs.workspace, "model", "oof")
    before, without = read_final(*of).logits, read_final(*of, without=1).logits
    fold = pd.read_csv(runs.workspace.folds_path("csv"), index_col="image_id")["fold"].loc[before.index]
    path = runs.workspace.inputs_dir("csv") / "train.csv"
    table = pd.read_csv(path, index_col="image")
    inside = table.index.isin(fold.index[fold == 1])
    table.loc[inside, SIMULATED] = 1 - table.loc[inside, SIMULATED]
    table.to_csv(path)
    after = read_final(*of).logits
    assert after[fold == 1].equals(before[fold == 1])
    assert not after[fold != 1].equals(before[fold != 1])
    assert read_final(*of, without=1).logits.equals(without)


def test_a_gate_that_a_challenge_has_no_class_for_is_an_error_of_the_run(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2, recipe=Recipe(predict=PredictConfig(gate=0.5)))
    with pytest.raises(UserError, match="csv does not have: set it to 0"):
        read_final(runs.challenge, runs.workspace, "model", "test")
