"""A process that reads images and dies ends the run with a sentence, and nothing that was done is lost."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pandas as pd
import pytest

from cxrlt.errors import UserError
from cxrlt.inputs import loader_workers
from cxrlt.inputs.dataset import make_loader
from cxrlt.predictions.predict import predict
from cxrlt.system.signals import Stopped, put_off, stop_on_signals
from cxrlt.training.data import evaluation_set
from cxrlt.training.train import TrainPlan, train
from interrupting import each_pass, in_update
from tiny import same, tiny_recipe, weights_of

pytestmark = pytest.mark.slow

SENTENCE = r"DataLoader worker.*--data\.n-workers"


def readers() -> list[multiprocessing.Process]:
    """The child processes without joblib's, which live on for a while after a cache was built."""
    return [child for child in multiprocessing.active_children() if "Loky" not in child.name]


def kill_reader() -> None:
    """With SIGKILL, as a system short of memory does; it is noticed soon.

    All of them: one of a loader before this one may be about to end.
    """
    assert readers()
    for child in readers():
        os.kill(child.pid, signal.SIGKILL)
    time.sleep(60)
    pytest.fail("nobody noticed")


def test_a_reader_that_dies_in_training_is_a_sentence_and_the_run_goes_on(source, capsys):
    recipe = tiny_recipe(checkpoint_minutes=1e-9, **{"data.n_workers": 2})
    (whole,) = train(source, TrainPlan("readers-live", recipe, folds=(0,)))
    plan = TrainPlan("reader-dies", recipe, folds=(0,))
    with pytest.raises(UserError, match=SENTENCE), in_update(7, kill_reader):
        train(source, plan)
    capsys.readouterr()
    (job,) = train(source, plan)
    assert "going on from update 4 of 8" in capsys.readouterr().out
    assert same(weights_of(job), weights_of(whole))


def test_a_reader_that_dies_in_prediction_is_a_sentence_and_a_rerun_predicts(source):
    recipe = tiny_recipe(**{"data.n_workers": 1, "schedule.epochs": 1})
    (job,) = train(source, TrainPlan("predicted", recipe, folds=(0,)))
    with pytest.raises(UserError, match=SENTENCE), each_pass(lambda *_: kill_reader()):
        predict(source, "predicted", "oof")
    assert not (job.run_dir / "oof.parquet").exists()
    (path,) = predict(source, "predicted", "oof")
    assert len(pd.read_parquet(path)) == len(job.valid)


def test_another_error_of_torch_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="sizes of tensors"), loader_workers.readers_watched():
        raise RuntimeError("sizes of tensors must match")


def test_a_reader_killed_by_the_signal_that_stops_the_run_is_no_fault():
    with pytest.raises(Stopped), stop_on_signals(), put_off(), loader_workers.readers_watched():
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")


def test_readers_obey_the_process_that_reads_and_nobody_else(source):
    table, cache = source.split("dev", 32)
    dataset = evaluation_set(tiny_recipe(), table, source.challenge.classes, cache)
    stream = iter(make_loader(dataset, 0, np.arange(40)[:, None], n_workers=1))
    next(stream)
    (reader,) = readers()
    for number in ("INT", "TERM"):
        assert os.system(f"kill -{number} {reader.pid}") == 0
    for _ in range(20):
        next(stream)
    assert reader.is_alive()
    reader.terminate()
    reader.join(10)
    assert reader.exitcode == 0
