import shutil

import pytest
import torch

from cxrlt.cli import parse
from cxrlt.experiments.costs import SECONDS, costs
from cxrlt.experiments.lists.tricks import TrickExperiment
from cxrlt.experiments.waves import train_job
from cxrlt.system.atomic_files import write_json

pytestmark = pytest.mark.slow


@pytest.fixture
def experiment(source, compared) -> TrickExperiment:
    return TrickExperiment(source, compared[0])


def seconds_of(experiment, row):
    runs = [run for run in experiment.runs({}) if run.variant.name == row]
    return [experiment.fold_dir(run, fold) / SECONDS for run in runs for fold in experiment.folds]


def times_of(experiment):
    return {name: cost["training_time"] for name, cost in costs(experiment, experiment.runs({})).items()}


@pytest.fixture
def measured(experiment):
    """The seconds of every training set to what is known, and back afterwards."""
    kept = {}
    for row, values in {"base": [2, 2, 2, 2, 2, 90], "gem": [6] * 6, "crt": [1] * 6}.items():
        for path, seconds in zip(seconds_of(experiment, row), values, strict=True):
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
    for path in seconds_of(measured, "gem"):
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
        for name in ("weights.safetensors", SECONDS):
            (directory / name).unlink()
        parse(list(train_job(experiment, run, 0).arguments)).run()
        assert (directory / "weights.safetensors").is_file()
        assert not (directory / SECONDS).exists()
    finally:
        shutil.rmtree(directory)
        kept.rename(directory)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a GPU is timed by the clock on the wall")
def test_without_a_gpu_it_is_the_processors_time_that_counts(experiment, compared):
    assert "Training time: processor seconds" in compared[2]
    (path, *_) = seconds_of(experiment, "gem")
    kept = path.read_bytes()
    try:
        write_json(path, {"seconds": 1000.0, "clock": "wall"})
        assert times_of(experiment)["gem"] < 100
    finally:
        path.write_bytes(kept)
