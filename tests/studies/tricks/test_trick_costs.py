import shutil

import pytest
import torch

from cxrlt.studies.tricks.cost import SECONDS, costs, train_timed
from cxrlt.studies.tricks.plan import TrickStudy
from cxrlt.system.atomic_files import write_json

pytestmark = pytest.mark.slow


@pytest.fixture
def study(source, compared) -> TrickStudy:
    return TrickStudy(source, compared[0])


def seconds_of(study, row):
    (trick,) = [trick for trick in study.tricks if trick.name == row] or [None]
    runs = study.runs([trick]) if trick else study.base_runs
    return [study.fold_dir(run, fold) / SECONDS for run in runs for fold in study.folds]


@pytest.fixture
def measured(study):
    """The seconds of every training set to what is known, and back afterwards."""
    kept = {}
    for row, values in {"base": [2, 2, 2, 2, 2, 90], "gem": [6] * 6, "crt": [1] * 6}.items():
        for path, seconds in zip(seconds_of(study, row), values, strict=True):
            kept[path] = path.read_bytes()
            write_json(path, {"seconds": seconds})
    yield study
    for path, content in kept.items():
        path.write_bytes(content)


def test_times_are_multiples_of_bases_with_what_is_needed_first(measured):
    runs = [*measured.base_runs, *measured.runs(measured.tricks)]
    times = {row: cost.training for row, cost in costs(measured, runs).items()}
    expected = {"base": 1, "gem": 3, "crt": 1.5, "mean": 4.5}
    assert times == pytest.approx({row: expected.get(row, 1) for row in times})


def test_a_training_that_was_not_measured_has_no_time(measured):
    for path in seconds_of(measured, "gem"):
        path.unlink()
    runs = [*measured.base_runs, *measured.runs(measured.tricks)]
    times = {row: cost.training for row, cost in costs(measured, runs).items()}
    assert times["gem"] != times["gem"]
    assert times["mean"] != times["mean"]
    assert times["crt"] == pytest.approx(1.5)


def test_an_interrupted_training_is_not_measured(study, source):
    (run,) = [run for run in study.base_runs if run.seed == 0]
    plan = run.plan(0, force=False)
    directory = study.fold_dir(run, 0)
    kept = directory.with_name("kept")
    shutil.copytree(directory, kept)
    try:
        for name in ("weights.safetensors", SECONDS):
            (directory / name).unlink()
        train_timed(source, plan, directory)
        assert (directory / "weights.safetensors").is_file()
        assert not (directory / SECONDS).exists()
    finally:
        shutil.rmtree(directory)
        kept.rename(directory)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a GPU is timed by the clock on the wall")
def test_without_a_gpu_it_is_the_processors_time_that_counts(study, compared):
    assert "Training time: processor seconds" in compared[2]
    (path, *_) = seconds_of(study, "gem")
    kept = path.read_bytes()
    try:
        write_json(path, {"seconds": 1000.0, "clock": "wall"})
        runs = [*study.base_runs, *study.runs(study.tricks)]
        assert costs(study, runs)["gem"].training < 100
    finally:
        path.write_bytes(kept)
