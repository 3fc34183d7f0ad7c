"""The stage `cxrlt train`: train the folds of a run."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator

from cxrlt.folds.rows import TrainRows, read_train_rows
from cxrlt.heads import HEADS, cosine_heads
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.loader_workers import explain_dead_worker
from cxrlt.losses import LOSSES
from cxrlt.models.backbone import require_head_options
from cxrlt.recipe import Recipe
from cxrlt.system.locks import HOLDER, LOCK, lock_folder, remove_leftovers
from cxrlt.training.batch_size import require_trainable_batches
from cxrlt.training.initial_weights import weights_notes
from cxrlt.training.job import FoldJob, write_run_files
from cxrlt.training.long_tail import describe_long_tail
from cxrlt.training.loop import fit
from cxrlt.training.out_of_memory import explain_out_of_memory
from cxrlt.training.plan import TrainPlan, create_fold_jobs
from cxrlt.training.run_paths import RUN, WEIGHTS
from cxrlt.training.run_state import record_failure, write_planned
from cxrlt.training.same_run import require_same_data, require_same_run, update_saved_recipe
from cxrlt.training.setup import create_accelerator, create_fold_loss
from cxrlt.training.stages import leftover_files


def train(source: ImageSource, plan: TrainPlan) -> list[FoldJob]:
    """Train every unfinished fold of `plan`; return all jobs.

    Raises UserError if the run's folder holds another run, if the data have changed since training (unless
    `keep_trained`), if a fold does not exist, or if another process trains it.
    """
    require_head_options(plan.recipe.model)
    accelerator = create_accelerator(plan.recipe)
    rows = read_train_rows(source.challenge, source.workspace)
    jobs = create_fold_jobs(source, plan, rows)
    for note in rows.notes(source.challenge):
        accelerator.print(f"train {plan.name}: {note}")
    require_trainable(jobs, plan, rows, accelerator)
    if accelerator.is_main_process:
        run_dir = source.workspace.run_dir(source.challenge.name, plan.name)
        write_planned(run_dir, [job.run.fold for job in jobs], plan.seed)
    for note in (*_initial_weights_notes(jobs), *head_warnings(plan.recipe)):
        accelerator.print(f"train {plan.name}: {note}")
    for job in jobs:
        if job.is_finished and not plan.force:
            skip_finished_fold(job, accelerator)
        else:
            train_fold(job, accelerator, force=plan.force)
    return jobs


def _initial_weights_notes(jobs: Sequence[FoldJob]) -> list[str]:
    """Return the licence of the initial weights and the notes of `weights_notes`, each once."""
    weights = [job.run.initial_weights for job in jobs]
    licences = [f"licence of the initial weights: {each.licence}" for each in weights if not each.restricted]
    notes = [note for each in weights for note in weights_notes(each, jobs[0].challenge)]
    return list(dict.fromkeys((*licences, *notes)))


def require_trainable(
    jobs: Sequence[FoldJob], plan: TrainPlan, rows: TrainRows, accelerator: Accelerator
) -> None:
    """Raises UserError for every problem of any fold that can be found before training."""
    if not plan.force:
        for job in jobs:
            require_same_run(job, rows)
        require_same_data(jobs, rows, keep=plan.keep_trained, write=accelerator.is_main_process)
    for job in jobs:
        create_fold_loss(job)  # raises UserError for a wrong option
    require_trainable_batches([job for job in jobs if plan.force or not job.is_finished], accelerator)
    accelerator.wait_for_everyone()


def train_fold(job: FoldJob, accelerator: Accelerator, *, force: bool = False) -> None:
    """Train a fold and its unfinished stages in its locked folder; with `force`, from the start.

    Raises UserError if another process trains it, or if memory or a loader process fails.
    """
    main = accelerator.is_main_process
    locked = lock_folder(job.run_dir) if main else nullcontext()
    recorded = record_failure(job.run_dir) if main else nullcontext()
    with locked, recorded, explain_dead_worker(), explain_out_of_memory():
        if main:
            if force:
                clear_fold_dir(job.run_dir)
            write_run_files(job, accelerator.device)
        accelerator.wait_for_everyone()
        if job.recipe.data.long_tail is not None:
            accelerator.print(describe_long_tail(job))
        for training in (*job.stages, job):
            if not training.is_finished:
                training.run_dir.mkdir(exist_ok=True)
                fit(training, accelerator)
        if main:
            for path in leftover_files(job.run_dir):
                path.unlink(missing_ok=True)


def skip_finished_fold(job: FoldJob, accelerator: Accelerator) -> None:
    """Skip a finished fold; update recipe fields that do not change weights, and remove leftover files."""
    accelerator.print(f"train {job.run.name} fold {job.run.fold}: already done ({job.run_dir})")
    if accelerator.is_main_process:
        update_saved_recipe(job)
        remove_leftovers(job.run_dir, leftover_files(job.run_dir))


def clear_fold_dir(run_dir: Path) -> None:
    """Empty a fold's folder, except its lock files.

    Delete weights first and run.json last, so an interrupted --force never looks finished, and its
    checkpoints never look like those of another run.
    """
    order = {WEIGHTS: 0, RUN: 2}
    for path in sorted(run_dir.iterdir(), key=lambda path: order.get(path.name, 1)):
        if path.name not in (LOCK, HOLDER):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def head_warnings(recipe: Recipe) -> Iterator[str]:
    """Yield warnings if loss and head do not match: LDAM multiplies cosines by 30, other losses do not.

    The factor is `s` of Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss,
    NeurIPS 2019.
    """
    name, cosine = recipe.loss.name, HEADS[recipe.model.head.name].cosines
    cosines = LOSSES[name].cosines if name in LOSSES else None
    if cosines == "needed" and not cosine:
        yield (
            f"{name} scales its logits and needs cosines: use --model.head.name {cosine_heads()[0]}. The "
            "logits of a linear head have no bound, so the softmax saturates and training may diverge."
        )
    if cosine and cosines is None:
        losses = [name for name, entry in LOSSES.items() if entry.cosines == "needed"]
        yield (
            f"the logits of a cosine head are between -1 and 1, and {recipe.loss.name} does not scale them: "
            f"no probability gets near 0 or 1. Use --model.head.name linear, or loss {' or '.join(losses)}."
        )
