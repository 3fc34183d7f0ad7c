"""Validation, logging and saving after every epoch and at the end of a training."""

import math
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from scipy.special import softmax

from cxrlt.metrics import class_means, macro_metric, macro_metrics
from cxrlt.system.atomic_files import atomic_path
from cxrlt.system.signals import Stopped, stop_if_requested
from cxrlt.training.checkpoint import intermediate_files, save_checkpoint, save_tensors
from cxrlt.training.datasets import create_eval_dataset
from cxrlt.training.infer import infer
from cxrlt.training.job import FoldJob, weights_metadata
from cxrlt.training.run_paths import LOG, WEIGHTS
from cxrlt.training.setup import Trainer, resolve_n_workers

BEST_WEIGHTS = "best.safetensors"
MIN_CHECKPOINT_SECONDS = 15.0
"""Seconds between checkpoints at the end of epochs: writing one takes longer than a tiny epoch."""


def validate(trainer: Trainer) -> dict[str, float]:
    """Return the scores of the EMA weights by column of log.csv; NaN if undefined.

    On the validation rows, and on the holdout rows if these choose the epoch.
    """
    challenge, data = trainer.job.challenge, trainer.job.data
    names = tuple(dict.fromkeys([challenge.metric, *class_means(challenge.task)]))
    values = dict.fromkeys(names, math.nan)
    if len(data.valid):
        values = macro_metrics(names, data.targets(data.valid), predict_scores(trainer, data.valid))
    scores = {f"oof_{name}": value for name, value in values.items()}
    if trainer.job.recipe.predict.weights == "best_holdout":
        targets, metric = data.targets(data.holdout), challenge.metric
        scores[f"holdout_{metric}"] = macro_metric(metric, targets, predict_scores(trainer, data.holdout))
    return scores


def predict_scores(trainer: Trainer, table: pd.DataFrame) -> np.ndarray:
    """Predict the rows of `table` (index image_id) with the EMA weights; every process returns all rows.

    Return float (n_rows, n_classes): logits, or probabilities with one class per image.
    """
    cfg, classes, task = trainer.job.recipe, trainer.job.data.classes, trainer.job.challenge.task
    logits = infer(
        trainer.ema.module,
        create_eval_dataset(cfg, table, classes, trainer.source),
        list(table.index),
        classes,
        trainer.accelerator,
        task=task,
        batch_size=trainer.micro_batch_size,
        n_workers=resolve_n_workers(cfg.data.n_workers, trainer.accelerator),
        label="validate",
    ).to_numpy()
    return softmax(logits, axis=1) if task == "single_label" else logits


def end_epoch(trainer: Trainer, epoch: int, speed: dict[str, float]) -> None:
    """Validate, log, keep the weights if they are the best so far and that is asked for, and save if due."""
    job, progress, n_updates = trainer.job, trainer.progress, trainer.updates_per_epoch
    means = {"loss": progress.loss_sum / n_updates, "clipped_share": progress.n_clipped / n_updates}
    row = {"epoch": epoch + 1} | means | validate(trainer) | speed
    progress.log.append(row)
    progress.loss_sum = progress.n_clipped = 0.0
    if not trainer.accelerator.is_main_process:
        return
    if not sys.stderr.isatty():
        print(_log_line(job, row), flush=True)
    log = pd.DataFrame(progress.log)
    choice = _score_that_chooses(job)
    if choice and row[choice] >= log[choice].max():
        save_tensors(job.run_dir / BEST_WEIGHTS, trainer.weights(), weights_metadata(job))
    with atomic_path(job.run_dir / LOG) as temporary:
        log.to_csv(temporary, index=False)
    save_checkpoint_if_due(trainer, epoch_is_over=True)


def _score_that_chooses(job: FoldJob) -> str | None:
    """Return the column of log.csv whose best epoch gives the final weights; None for the last epoch."""
    columns = {"best": f"oof_{job.challenge.metric}", "best_holdout": f"holdout_{job.challenge.metric}"}
    return columns.get(job.recipe.predict.weights)


def _log_line(job: FoldJob, row: dict[str, float]) -> str:
    """Return the log line of an epoch. Only the first says that the scores are undefined."""
    scores = {key.removeprefix("oof_"): score for key, score in row.items() if key.startswith("oof_")}
    parts = [f"loss {row['loss']:.4f}"]
    if not all(map(math.isnan, scores.values())):
        parts.append("OOF " + ", ".join(f"{name} {_format_score(score)}" for name, score in scores.items()))
    elif job.data.valid_mask.any() and row["epoch"] == 1:
        parts.append("OOF undefined (every class lacks positives or negatives in the validation rows)")
    holdout = [key for key in row if key.startswith("holdout_")]
    parts += [f"{key.replace('_', ' ')} {_format_score(row[key])}" for key in holdout]
    return f"fold {job.run.fold} epoch {row['epoch']}: {', '.join(parts)}, {row['images_per_s']:.0f} images/s"


def _format_score(score: float) -> str:
    return "undefined" if math.isnan(score) else f"{score:.4f}"


def save_checkpoint_if_due(trainer: Trainer, *, epoch_is_over: bool) -> None:
    """Write a checkpoint on the main process if the last one is old enough."""
    seconds = 60 * trainer.job.recipe.checkpoint_minutes
    if epoch_is_over:
        seconds = min(seconds, MIN_CHECKPOINT_SECONDS)
    if trainer.accelerator.is_main_process and time.monotonic() - trainer.clock.saved_at >= seconds:
        _save(trainer)


def save_and_stop(trainer: Trainer) -> NoReturn:
    """Write a checkpoint and raise `Stopped`, after a signal to one of the processes."""
    if trainer.accelerator.is_main_process:
        path, update = _save(trainer), f"update {trainer.progress.update} of {trainer.n_updates}"
        print(f"fold {trainer.job.run.fold}: stopped, {update} is saved ({path})", flush=True)
    trainer.accelerator.wait_for_everyone()  # a process that exits would end the others
    stop_if_requested()
    raise Stopped(signal.SIGTERM)  # the signal went to another process


def save_final_weights(trainer: Trainer) -> None:
    """Write the weights of the finished fold, the last or the best, and remove intermediate files."""
    job = trainer.job
    choice = _score_that_chooses(job)
    if choice and not all(math.isnan(row[choice]) for row in trainer.progress.log):
        (job.run_dir / BEST_WEIGHTS).replace(job.run_dir / WEIGHTS)
    else:
        save_tensors(job.run_dir / WEIGHTS, trainer.weights(), weights_metadata(job))
    for path in intermediate_files(job.run_dir):
        path.unlink(missing_ok=True)


def _save(trainer: Trainer) -> Path:
    parts = (trainer.raw_model, trainer.ema.module, trainer.optimizer)
    path = save_checkpoint(trainer.job.run_dir, *parts, trainer.progress)
    trainer.clock.saved_at = time.monotonic()
    return path
