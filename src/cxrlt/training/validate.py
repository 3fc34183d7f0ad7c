"""What is done after every epoch: the score on the left-out rows, the log, the checkpoint."""

import math
import sys

import pandas as pd

from cxrlt.artifacts import atomic_path
from cxrlt.metrics import auroc, average_precision, macro
from cxrlt.training.checkpoint import save_checkpoint, save_tensors
from cxrlt.training.infer import infer
from cxrlt.training.job import tags
from cxrlt.training.setup import Trainer, worker_count

BEST = "best.safetensors"


def validate(trainer: Trainer) -> dict[str, float]:
    """Macro mAP and AUROC of the averaged weights on the rows this fold leaves out; NaN if there are none."""
    job, cfg = trainer.job, trainer.job.recipe
    if job.valid.empty:
        return {"oof_mAP": math.nan, "oof_mAUROC": math.nan}
    logits = infer(
        trainer.ema.module,
        job.cache,
        list(job.valid.index),
        job.classes,
        trainer.accelerator,
        batch_size=cfg.optim.max_batch_per_device,
        n_workers=worker_count(cfg.data.n_workers, trainer.accelerator),
        label="validate",
    ).to_numpy()
    targets = job.targets(job.valid)
    return {
        "oof_mAP": float(macro(average_precision(targets, logits))),
        "oof_mAUROC": float(macro(auroc(targets, logits))),
    }


def end_epoch(trainer: Trainer, row: dict[str, float]) -> None:
    """Log the epoch, keep its weights if they are the best so far and asked for, write a checkpoint."""
    job, progress = trainer.job, trainer.progress
    progress.log.append(row)
    progress.loss_sum = 0.0
    if not trainer.accelerator.is_main_process:
        return
    if not sys.stderr.isatty():
        print(
            f"fold {job.fold} epoch {row['epoch']}: loss {row['loss']:.4f}, OOF mAP {row['oof_mAP']:.4f}, "
            f"AUROC {row['oof_mAUROC']:.4f}, {row['images_per_s']:.0f} images/s",
            flush=True,
        )
    log = pd.DataFrame(progress.log)
    monitored = f"oof_{job.metric}"
    if job.recipe.predict.weights == "best" and row[monitored] >= log[monitored].max():
        save_tensors(job.run_dir / BEST, trainer.ema.module.state_dict(), tags(job))
    with atomic_path(job.run_dir / "log.csv") as temporary:
        log.to_csv(temporary, index=False)
    save_progress(trainer)


def save_progress(trainer: Trainer) -> None:
    job, state = trainer.job, vars(trainer.progress)
    save_checkpoint(job.run_dir, trainer.bare, trainer.ema.module, trainer.optimizer, state)
