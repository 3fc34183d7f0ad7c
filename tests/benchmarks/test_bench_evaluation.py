"""What the benchmarks of the evaluation measure, and that they tell a wrong result from a right one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import evaluation
from benchmarks.growth import Growth
from benchmarks.rows import Row
from benchmarks.setting import Setting
from cxrlt.metrics import Bootstrap

STAGES = {
    evaluation.metrics_rows: ("rows/s", 6),
    evaluation.bootstrap_rows: ("draws/s", 50),
    evaluation.ensemble_rows: ("ensembles/s", 5),
}


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    for name, small in {"N_DRAWS": 40, "N_MEMBERS": 3, "ROUNDS": 2}.items():
        monkeypatch.setattr(evaluation, name, small)
    return Setting(tmp_path, share=0.001)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_figure_of_its_own_one_of_scikit_learn_and_a_limit_and_equal_results(
    stage: Callable[[Setting], Iterator[Row]], setting: Setting
) -> None:
    (row,) = stage(setting)
    assert (row.unit, row.target) == STAGES[stage]
    assert row.value > 0 < row.against.value
    assert row.limit.value > 0
    assert "scikit-learn" in row.against.name
    assert len(row.stage) <= 45
    assert row.wrong == ""


@pytest.mark.parametrize(
    "stage", [evaluation.metrics_growth, evaluation.bootstrap_growth, evaluation.ensemble_growth]
)
def test_growth_is_measured_at_doubling_sizes(stage: Callable[[Setting], Growth], setting: Setting) -> None:
    growth = stage(setting)
    assert growth.unit == "row"
    assert growth.sizes == tuple(growth.sizes[0] * step for step in (1, 2, 4, 8))
    assert min(growth.seconds) > 0


def test_metrics_that_are_not_scikit_learns_are_wrong(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = evaluation.ranking_values
    monkeypatch.setattr(
        evaluation, "ranking_values", lambda *args: {k: v + 1e-7 for k, v in right(*args).items()}
    )
    (row,) = evaluation.metrics_rows(setting)
    assert row.wrong == "a metric differs by up to 1e-07"
    assert not row.reached


def test_draws_of_other_patients_are_wrong(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    right = evaluation.bootstrap
    monkeypatch.setattr(evaluation, "bootstrap", lambda *args: right(*args, seed=1))
    (row,) = evaluation.bootstrap_rows(setting)
    assert row.wrong.startswith("AP of a draw differs")


def test_an_interval_of_another_value_is_wrong(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    right = evaluation.bootstrap

    def off(*args: object) -> Bootstrap:
        drawn = right(*args)
        values, draws = drawn.by_class["AP"]
        return Bootstrap({"AP": (values + 1e-7, draws)})

    monkeypatch.setattr(evaluation, "bootstrap", off)
    (row,) = evaluation.bootstrap_rows(setting)
    assert row.wrong.startswith("an end of the interval differs")


def test_other_members_are_wrong(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    last = np.array([0.0, 0.0, 1.0])
    monkeypatch.setattr(evaluation, "greedy_weights", lambda *args, **kwargs: last)
    (row,) = evaluation.ensemble_rows(setting)
    assert "scikit-learn chooses [0. 1. 0.], not [0. 0. 1.]" in row.wrong
