"""What is done after every epoch and at the end: the score on the left-out rows, the log, what is saved."""

import math
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from scipy.special import softmax

from cxrlt.metrics import class_means, macro_metrics
from cxrlt.system.atomic_files import atomic_path
from cxrlt.system.signals import Stopped, stop_if_asked
from cxrlt.training.checkpoint import leftovers, save_checkpoint, save_tensors
from cxrlt.training.data import evaluation_set
from cxrlt.training.infer import infer
from cxrlt.training.job import FoldJob, tags
from cxrlt.training.run_paths import WEIGHTS
from cxrlt.training.setup import Trainer, worker_count

BEST = "best.safetensors"
EPOCH_SECONDS = 15.0
"""A checkpoint after an epoch saves this much work at least: writing one takes longer than a small epoch."""


def validation_scores(trainer: Trainer) -> dict[str, float]:
    """Scores of the averaged weights on the rows this fold leaves out; NaN if there are none."""
    challenge, data = trainer.job.challenge, trainer.job.data
    names = tuple(dict.fromkeys([challenge.metric, *class_means(challenge.task)]))
    values = dict.fromkeys(names, math.nan)
    if len(data.valid):
        values = macro_metrics(names, data.targets(data.valid), scores_on(trainer, data.valid))
    return {f"oof_{name}": value for name, value in values.items()}


def scores_on(trainer: Trainer, table: pd.DataFrame) -> np.ndarray:
    """What a metric takes, (rows of `table`, classes), from the averaged weights; the same on every process.

    Logits or, with one class per image, probabilities.
    """
    cfg, classes, task = trainer.job.recipe, trainer.job.data.classes, trainer.job.challenge.task
    logits = infer(
        trainer.ema.module,
        evaluation_set(cfg, table, classes, trainer.source),
        list(table.index),
        classes,
        trainer.accelerator,
        task=task,
        batch_size=trainer.rows_per_pass,
        n_workers=worker_count(cfg.data.n_workers, trainer.accelerator),
        label="validate",
    ).to_numpy()
    return softmax(logits, axis=1) if task == "single_label" else logits


def end_epoch(trainer: Trainer, epoch: int, speed: dict[str, float]) -> None:
    """Score and log the epoch, keep its weights if they are the best so far and asked for, save if due."""
    job, progress, n_updates = trainer.job, trainer.progress, trainer.updates_per_epoch
    means = {"loss": progress.loss_sum / n_updates, "clipped_share": progress.n_clipped / n_updates}
    row = {"epoch": epoch + 1} | means | validation_scores(trainer) | speed
    progress.log.append(row)
    progress.loss_sum = progress.n_clipped = 0.0
    if not trainer.accelerator.is_main_process:
        return
    if not sys.stderr.isatty():
        print(_log_line(job, row), flush=True)
    log = pd.DataFrame(progress.log)
    monitored = f"oof_{job.challenge.metric}"
    if job.recipe.predict.weights == "best" and row[monitored] >= log[monitored].max():
        save_tensors(job.run_dir / BEST, trainer.weights(), tags(job))
    with atomic_path(job.run_dir / "log.csv") as temporary:
        log.to_csv(temporary, index=False)
    save_if_due(trainer, epoch_is_over=True)


def _log_line(job: FoldJob, row: dict[str, float]) -> str:
    """The epoch for a person to read; that nothing can be scored is said with the first one alone."""
    scores = {key.removeprefix("oof_"): score for key, score in row.items() if key.startswith("oof_")}
    parts = [f"loss {row['loss']:.4f}"]
    if not all(map(math.isnan, scores.values())):
        parts.append("OOF " + ", ".join(f"{name} {_number(score)}" for name, score in scores.items()))
    elif job.data.left_out.any() and row["epoch"] == 1:
        parts.append("OOF undefined (no class has both values among the left-out rows)")
    return f"fold {job.run.fold} epoch {row['epoch']}: {', '.join(parts)}, {row['images_per_s']:.0f} images/s"


def _number(score: float) -> str:
    return "undefined" if math.isnan(score) else f"{score:.4f}"


def save_if_due(trainer: Trainer, *, epoch_is_over: bool) -> None:
    """Write a checkpoint, on the main process, if there has been none for some time."""
    seconds = 60 * trainer.job.recipe.checkpoint_minutes
    if epoch_is_over:
        seconds = min(seconds, EPOCH_SECONDS)
    if trainer.accelerator.is_main_process and time.monotonic() - trainer.clock.saved_at >= seconds:
        _save(trainer)


def save_and_stop(trainer: Trainer) -> NoReturn:
    """Write a checkpoint and raise `Stopped`: a signal has asked one of the processes to stop."""
    if trainer.accelerator.is_main_process:
        path, done = _save(trainer), f"update {trainer.progress.update} of {trainer.n_updates}"
        print(f"fold {trainer.job.run.fold}: {done} is saved ({path})", flush=True)
    trainer.accelerator.wait_for_everyone()  # the end of one would end the others
    stop_if_asked()
    raise Stopped(signal.SIGTERM)  # another process was asked


def save_final_weights(trainer: Trainer) -> None:
    """Write the weights of the finished fold, the last or the best, and remove what led there."""
    job = trainer.job
    scores = [row[f"oof_{job.challenge.metric}"] for row in trainer.progress.log]
    if job.recipe.predict.weights == "best" and not all(map(math.isnan, scores)):
        (job.run_dir / BEST).replace(job.run_dir / WEIGHTS)
    else:
        save_tensors(job.run_dir / WEIGHTS, trainer.weights(), tags(job))
    for path in leftovers(job.run_dir):
        path.unlink(missing_ok=True)


def _save(trainer: Trainer) -> Path:
    parts = (trainer.raw_model, trainer.ema.module, trainer.optimizer)
    path = save_checkpoint(trainer.job.run_dir, *parts, trainer.progress)
    trainer.clock.saved_at = time.monotonic()
    return path
