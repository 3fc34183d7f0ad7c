"""Benchmarks of the evaluation, and that they detect a wrong result."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import evaluation
from benchmarks.config import BenchmarkConfig
from benchmarks.measurement import Measurement
from benchmarks.scaling import ScalingResult
from cxrlt.metrics import Bootstrap

STAGES = {
    evaluation.measure_metrics: ("rows/s", 6),
    evaluation.measure_bootstrap: ("draws/s", 50),
    evaluation.measure_ensemble: ("ensembles/s", 5),
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BenchmarkConfig:
    for name, small in {"N_DRAWS": 40, "N_MEMBERS": 3, "N_ROUNDS": 2}.items():
        monkeypatch.setattr(evaluation, name, small)
    return BenchmarkConfig(tmp_path, scale=0.001)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_value_a_baseline_and_a_limit_and_equal_results(
    stage: Callable[[BenchmarkConfig], Iterator[Measurement]], config: BenchmarkConfig
) -> None:
    (row,) = stage(config)
    assert (row.unit, row.target) == STAGES[stage]
    assert row.value > 0 < row.baseline.value
    assert row.limit.value > 0
    assert "scikit-learn" in row.baseline.name
    assert len(row.stage) <= 45
    assert row.error == ""


@pytest.mark.parametrize(
    "stage",
    [
        evaluation.measure_metrics_scaling,
        evaluation.measure_bootstrap_scaling,
        evaluation.measure_ensemble_scaling,
    ],
)
def test_growth_is_measured_at_doubling_sizes(
    stage: Callable[[BenchmarkConfig], ScalingResult], config: BenchmarkConfig
) -> None:
    measure_scaling = stage(config)
    assert measure_scaling.unit == "row"
    assert measure_scaling.sizes == tuple(measure_scaling.sizes[0] * step for step in (1, 2, 4, 8))
    assert min(measure_scaling.seconds) > 0


def test_metrics_that_are_not_scikit_learns_are_wrong(
    config: BenchmarkConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = evaluation.ranking_values
    monkeypatch.setattr(
        evaluation, "ranking_values", lambda *args: {k: v + 1e-7 for k, v in right(*args).items()}
    )
    (row,) = evaluation.measure_metrics(config)
    assert row.error == "a metric differs by up to 1e-07"
    assert not row.meets_target


def test_draws_of_other_patients_are_wrong(config: BenchmarkConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    right = evaluation.bootstrap
    monkeypatch.setattr(evaluation, "bootstrap", lambda *args: right(*args, seed=1))
    (row,) = evaluation.measure_bootstrap(config)
    assert row.error.startswith("AP of a draw differs")


def test_an_interval_of_another_value_is_wrong(
    config: BenchmarkConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = evaluation.bootstrap

    def off(*args: object) -> Bootstrap:
        drawn = right(*args)
        values, draws = drawn.by_class["AP"]
        return Bootstrap({"AP": (values + 1e-7, draws)})

    monkeypatch.setattr(evaluation, "bootstrap", off)
    (row,) = evaluation.measure_bootstrap(config)
    assert row.error.startswith("a bound of the interval differs")


def test_other_members_are_wrong(config: BenchmarkConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    last = np.array([0.0, 0.0, 1.0])
    monkeypatch.setattr(evaluation, "greedy_weights", lambda *args, **kwargs: last)
    (row,) = evaluation.measure_ensemble(config)
    assert "scikit-learn chooses [0. 1. 0.], not [0. 0. 1.]" in row.error
