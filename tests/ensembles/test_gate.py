from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.ensembles.final_logits import gate_by_no_finding, gate_logits, load_final_logits
from cxrlt.errors import UserError
from cxrlt.recipe import PredictConfig, Recipe
from tiny import SimulatedRuns

CLASSES = ["Effusion", "Mass", "No Finding"]


def frame(values: list[list[float]]) -> pd.DataFrame:
    ids = [f"i{row}" for row in range(len(values))]
    return pd.DataFrame(values, index=ids, columns=CLASSES[: len(values[0])])


@pytest.fixture
def chest(tmp_path) -> Challenge:
    return replace(get_challenge("cxrlt2023", tmp_path), train_counts=dict.fromkeys(CLASSES, 1))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_gate_multiplies_findings_by_the_absence_of_no_finding(power: float) -> None:
    p = frame([[0.3, 0.6, 0.9], [0.5, 0.01, 0.2]])
    gated = expit(gate_logits(logit(p), "No Finding", power))
    for name in ("Effusion", "Mass"):
        np.testing.assert_allclose(gated[name], p[name] * (1 - p["No Finding"]) ** power)
    np.testing.assert_allclose(gated["No Finding"], p["No Finding"])


def test_gated_extreme_logits_are_finite_and_keep_their_order() -> None:
    logits = frame([[100, -100, 100], [90, -90, 100], [90, 90, -100]])
    gated = gate_logits(logits, "No Finding", 1.0)
    assert np.isfinite(gated).all(axis=None)
    assert gated.loc["i0", "Effusion"] > gated.loc["i1", "Effusion"] - 1e-9
    assert gated.loc["i1", "Mass"] > gated.loc["i0", "Mass"]
    assert gated.loc["i2", "Mass"] == pytest.approx(90)


def test_blank_rows_stay_blank(chest: Challenge) -> None:
    logits = frame([[0.1, 0.2, 0.3], [np.nan] * 3])
    done = gate_by_no_finding(chest, logits, 0.5)
    assert done.notna().all(axis=1).tolist() == [True, False]


def test_without_predict_gate_logits_are_unchanged(chest: Challenge) -> None:
    logits = frame([[0.1, 0.2, 0.3]])
    assert gate_by_no_finding(chest, logits, 0.0) is logits


def test_a_gate_needs_a_class_for_images_without_a_finding(chest: Challenge) -> None:
    bare = replace(chest, train_counts=dict.fromkeys(CLASSES[:2], 1))
    with pytest.raises(UserError, match="cxrlt2023 does not have: set it to 0"):
        gate_by_no_finding(bare, frame([[0.1, 0.2]]), 0.5)
    single = replace(chest, task="single_label")
    with pytest.raises(UserError, match="is a single-label task"):
        gate_by_no_finding(single, frame([[0.1, 0.2, 0.3]]), 0.5)


def test_a_gate_that_a_challenge_has_no_class_for_is_an_error_of_the_run(runs: SimulatedRuns) -> None:
    runs.add_run("model", skill=2, recipe=Recipe(predict=PredictConfig(gate=0.5)))
    with pytest.raises(UserError, match="csv does not have: set it to 0"):
        load_final_logits("model", "test", runs.current_data)
