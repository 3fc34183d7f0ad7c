import shutil

import pytest
import torch

from cxrlt.cli import parse
from cxrlt.experiments.costs import TIMING_FILE, relative_costs
from cxrlt.experiments.lists.tricks import TrickExperiment
from cxrlt.experiments.waves import train_job
from cxrlt.system.atomic_files import write_json

pytestmark = pytest.mark.slow


@pytest.fixture
def experiment(source, finished_tricks) -> TrickExperiment:
    return TrickExperiment(source, finished_tricks[0])


def time_paths(experiment, row):
    runs = [run for run in experiment.runs({}) if run.variant.name == row]
    return [experiment.fold_dir(run, fold) / TIMING_FILE for run in runs for fold in experiment.folds]


def times_of(experiment):
    return {
        name: cost["training_time"] for name, cost in relative_costs(experiment, experiment.runs({})).items()
    }


@pytest.fixture
def measured(experiment):
    """Set the recorded seconds of every training to known values, and restore them afterwards."""
    kept = {}
    for row, values in {"base": [2, 2, 2, 2, 2, 90], "gem": [6] * 6, "crt": [1] * 6}.items():
        for path, seconds in zip(time_paths(experiment, row), values, strict=True):
            kept[path] = path.read_bytes()
            write_json(path, {"seconds": seconds})
    yield experiment
    for path, content in kept.items():
        path.write_bytes(content)


def test_times_are_multiples_of_bases_with_what_is_needed_first(measured):
    times = times_of(measured)
    expected = {"base": 1, "gem": 3, "crt": 1.5, "mean": 4.5}
    assert times == pytest.approx({row: expected.get(row, 1) for row in times})


def test_a_training_that_was_not_measured_has_no_time(measured):
    for path in time_paths(measured, "gem"):
        path.unlink()
    times = times_of(measured)
    assert times["gem"] != times["gem"]
    assert times["mean"] != times["mean"]
    assert times["crt"] == pytest.approx(1.5)


def test_an_interrupted_training_is_not_measured(experiment):
    run = experiment.run(experiment.reference, 0)
    directory = experiment.fold_dir(run, 0)
    kept = directory.with_name("kept")
    shutil.copytree(directory, kept)
    try:
        for name in ("weights.safetensors", TIMING_FILE):
            (directory / name).unlink()
        parse(list(train_job(experiment, run, 0).arguments)).run()
        assert (directory / "weights.safetensors").is_file()
        assert not (directory / TIMING_FILE).exists()
    finally:
        shutil.rmtree(directory)
        kept.rename(directory)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="trainings on a GPU use wall time")
def test_without_a_gpu_training_time_is_cpu_time(experiment, finished_tricks):
    assert "Training time: CPU seconds" in finished_tricks[2]
    (path, *_) = time_paths(experiment, "gem")
    kept = path.read_bytes()
    try:
        write_json(path, {"seconds": 1000.0, "clock": "wall"})
        assert times_of(experiment)["gem"] < 100
    finally:
        path.write_bytes(kept)
