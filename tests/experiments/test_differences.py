import numpy as np
import pandas as pd
import pytest

from cxrlt.experiments.differences import WITHIN_NOISE, compare_to_reference, min_detectable_difference
from cxrlt.experiments.score import RunScore
from cxrlt.metrics import BootstrapSamples

NOISE = np.random.default_rng(0).normal(0, 0.05, 1000)
"""The noise of sampling patients, which is the same for all runs."""


def run(value: float, own_noise: float = 0.0, seed: int = 0) -> RunScore:
    draws = value + NOISE + np.random.default_rng([1, seed]).normal(0, own_noise, 1000)
    return RunScore(
        {"mAP": BootstrapSamples(value, draws)}, pd.DataFrame({"AP": [value]}, index=["Mass"]), {"gap": value}
    )


def test_a_small_difference_is_significant_if_patient_noise_is_shared():
    first, second = compare_to_reference({"bce": [run(0.30)], "ral": [run(0.31, 0.001, seed=1)]})
    assert np.std(NOISE) > 0.01
    interval = second.differences["mAP"]
    assert interval.low > 0
    assert interval.value == pytest.approx(0.01)
    assert (first.verdict, second.verdict) == ("", "higher")


def test_a_loss_below_the_first_is_lower():
    assert compare_to_reference({"bce": [run(0.30)], "ral": [run(0.29, 0.001, seed=1)]})[1].verdict == "lower"


def test_a_difference_within_patient_noise_is_not_significant():
    assert (
        compare_to_reference({"bce": [run(0.30)], "ral": [run(0.31, 0.05, seed=1)]})[1].verdict
        == WITHIN_NOISE
    )


def test_a_difference_within_seed_noise_is_not_significant():
    runs = {"bce": [run(0.28), run(0.32)], "ral": [run(0.29), run(0.33)]}
    second = compare_to_reference(runs)[1]
    assert second.differences["mAP"].low > 0
    assert second.verdict == WITHIN_NOISE
    assert second.seed_stds["mAP"] == pytest.approx(0.04 / np.sqrt(2))


def test_means_are_over_seeds():
    first, _ = compare_to_reference({"bce": [run(0.2), run(0.4)], "ral": [run(0.3), run(0.3)]})
    assert first.means["mAP"] == pytest.approx(0.3)
    assert first.extra_values["gap"] == pytest.approx(0.3)
    assert first.classes.loc["Mass", "AP"] == pytest.approx(0.3)


def test_the_detection_limit_includes_both_kinds_of_noise():
    runs = {"bce": [run(0.28), run(0.32)], "ral": [run(0.30, 0.01, 1), run(0.32, 0.01, 2)]}
    compared = compare_to_reference(runs)
    seeds = np.mean([np.var([0.28, 0.32], ddof=1), np.var([0.30, 0.32], ddof=1)])
    draws = [np.mean([r.metrics["mAP"].draws for r in group], axis=0) for group in runs.values()]
    standard_error = np.sqrt(np.var(draws[1] - draws[0]) + 2 * seeds / 2)
    assert compared[1].standard_error == pytest.approx(standard_error)
    assert min_detectable_difference(compared) == pytest.approx(2.8 * standard_error)
    assert np.isnan(min_detectable_difference(compared[:1]))


def test_variants_that_use_the_references_models_have_no_seed_noise_of_their_own():
    runs = {
        "base": [run(0.20), run(0.40)],
        "flip": [run(0.21, 0.001, 1), run(0.41, 0.001, 2)],
        "gem": [run(0.21, 0.001, 3), run(0.41, 0.001, 4)],
    }
    apart = {row.name: row.verdict for row in compare_to_reference(runs)}
    assert apart == {"base": "", "flip": WITHIN_NOISE, "gem": WITHIN_NOISE}
    paired = {row.name: row.verdict for row in compare_to_reference(runs, {"flip": "prediction"})}
    assert paired == {"base": "", "flip": "higher", "gem": WITHIN_NOISE}


def test_variants_of_a_kind_share_the_seed_noise_of_their_differences():
    runs = {
        "base": [run(0.20), run(0.40)],
        "flip": [run(0.21), run(0.41)],
        "crops": [run(0.22), run(0.44)],
        "stack": [run(0.25), run(0.45)],
    }
    kinds = {"flip": "prediction", "crops": "prediction", "stack": "ensemble"}
    errors = {row.name: row.standard_error for row in compare_to_reference(runs, kinds)}
    shared = np.sqrt(np.mean([0, np.var([0.02, 0.04], ddof=1)]) / 2)
    assert errors["flip"] == errors["crops"] == pytest.approx(shared)
    assert errors["stack"] == pytest.approx(0, abs=1e-9)


def class_run(value: float, seed: int = 0) -> RunScore:
    one = run(value, 0.001, seed)
    draws = value + NOISE + np.random.default_rng([2, seed]).normal(0, 0.001, 1000)
    return RunScore(one.metrics, one.classes, class_draws=draws[:, None])


def test_every_class_has_an_interval_and_a_paired_difference_over_seeds():
    runs = {"ce": [class_run(0.2), class_run(0.3, 1)], "lmf": [class_run(0.31, 2), class_run(0.33, 3)]}
    first, second = compare_to_reference(runs)
    mass, reference = second.classes.loc["Mass"], first.classes.loc["Mass"]
    assert mass["AP"] == pytest.approx(0.32)
    assert mass["AP low"] < 0.25 < 0.32 < mass["AP high"]  # the noise of patients
    assert mass["AP difference"] == pytest.approx(0.07)
    assert (
        0.06 < mass["AP difference low"] < 0.07 < mass["AP difference high"] < 0.08
    )  # shared, so it cancels
    assert "AP difference" not in reference
