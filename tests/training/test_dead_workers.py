"""A loader worker that dies ends the run with a sentence, and nothing that was done is lost."""

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
from cxrlt.system.signals import Stopped, defer_signals, stop_on_signals
from cxrlt.training.datasets import create_eval_dataset
from cxrlt.training.train import TrainPlan, train
from interruptions import on_each_forward, on_update
from tiny import load_weights, same_weights, tiny_recipe

pytestmark = pytest.mark.slow

SENTENCE = r"DataLoader worker.*--data\.n-workers"


def workers() -> list[multiprocessing.Process]:
    """The child processes without joblib's, which live on for a while after a cache was built."""
    return [child for child in multiprocessing.active_children() if "Loky" not in child.name]


def kill_workers() -> None:
    """With SIGKILL, as a system short of memory does; it is noticed soon.

    All of them: one of a loader before this one may be about to end.
    """
    assert workers()
    for child in workers():
        os.kill(child.pid, signal.SIGKILL)
    time.sleep(60)
    pytest.fail("nobody noticed")


def test_a_worker_that_dies_in_training_is_a_sentence_and_the_run_goes_on(source, capsys):
    recipe = tiny_recipe(checkpoint_minutes=1e-9, **{"data.n_workers": 2})
    (whole,) = train(source, TrainPlan("workers-live", recipe, folds=(0,)))
    plan = TrainPlan("worker-dies", recipe, folds=(0,))
    with pytest.raises(UserError, match=SENTENCE), on_update(7, kill_workers):
        train(source, plan)
    capsys.readouterr()
    (job,) = train(source, plan)
    assert "continuing from update 4 of 8" in capsys.readouterr().out
    assert same_weights(load_weights(job), load_weights(whole))


def test_a_worker_that_dies_in_prediction_is_a_sentence_and_a_rerun_predicts(source):
    recipe = tiny_recipe(**{"data.n_workers": 1, "schedule.epochs": 1})
    (job,) = train(source, TrainPlan("predicted", recipe, folds=(0,)))
    with pytest.raises(UserError, match=SENTENCE), on_each_forward(lambda *_: kill_workers()):
        predict(source, "predicted", "oof")
    assert not (job.run_dir / "oof.parquet").exists()
    (path,) = predict(source, "predicted", "oof")
    assert len(pd.read_parquet(path)) == len(job.data.valid)


def test_another_error_of_torch_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="sizes of tensors"), loader_workers.explain_dead_worker():
        raise RuntimeError("sizes of tensors must match")


def test_a_worker_killed_by_the_signal_that_stops_the_run_is_no_fault():
    with pytest.raises(Stopped), stop_on_signals(), defer_signals(), loader_workers.explain_dead_worker():
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")


def test_workers_obey_the_process_that_reads_and_nobody_else(source):
    table, cache = source.load_split("dev", 32)
    dataset = create_eval_dataset(tiny_recipe(), table, source.challenge.classes, cache)
    stream = iter(make_loader(dataset, 0, np.arange(40)[:, None], n_workers=1))
    next(stream)
    (worker,) = workers()
    for number in ("INT", "TERM"):
        assert os.system(f"kill -{number} {worker.pid}") == 0
    for _ in range(20):
        next(stream)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
