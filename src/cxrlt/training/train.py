"""The stage `cxrlt train`: every asked-for fold of one plan."""

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
from cxrlt.system.locks import HOLDER, LOCK, exclusive, remove_leftovers
from cxrlt.training.batch_size import require_batches_that_train
from cxrlt.training.job import FoldJob, describe_run, licence_of
from cxrlt.training.loop import fit
from cxrlt.training.out_of_memory import explain_out_of_memory
from cxrlt.training.plan import TrainPlan, fold_jobs
from cxrlt.training.run_paths import RUN, WEIGHTS
from cxrlt.training.same_run import require_same_data, require_same_run, update_recipe
from cxrlt.training.setup import create_accelerator, loss_of
from cxrlt.training.stages import leftover_files


def train(source: ImageSource, plan: TrainPlan) -> list[FoldJob]:
    """Train every fold of `plan` that is not finished. Returns the jobs, finished ones included.

    Raises UserError if the run's folder holds another run, or one that was trained on other data than there
    are now (unless `keep_trained`), if a fold does not exist, or another process is training it.
    """
    require_head_options(plan.recipe.model)
    accelerator = create_accelerator(plan.recipe)
    rows = read_train_rows(source.challenge, source.workspace)
    jobs = fold_jobs(source, plan, rows)
    for note in rows.notes(source.challenge.name):
        accelerator.print(f"train {plan.name}: {note}")
    require_trainable(jobs, plan, rows, accelerator)
    licences = dict.fromkeys(f"weights' licence: {licence_of(job.run)}" for job in jobs)
    for note in (*licences, *head_warnings(plan.recipe)):
        accelerator.print(f"train {plan.name}: {note}")
    for job in jobs:
        if job.finished and not plan.force:
            leave_finished(job, accelerator)
        else:
            train_fold(job, accelerator, force=plan.force)
    return jobs


def require_trainable(
    jobs: Sequence[FoldJob], plan: TrainPlan, rows: TrainRows, accelerator: Accelerator
) -> None:
    """Raises UserError for anything that would stop one of the folds, before any is trained."""
    if not plan.force:
        for job in jobs:
            require_same_run(job, rows)
        require_same_data(jobs, rows, keep=plan.keep_trained, write=accelerator.is_main_process)
    for job in jobs:
        loss_of(job)  # a wrong option is an error
    require_batches_that_train([job for job in jobs if plan.force or not job.finished], accelerator)
    accelerator.wait_for_everyone()


def train_fold(job: FoldJob, accelerator: Accelerator, *, force: bool = False) -> None:
    """Train a fold in its locked folder, after its unfinished stages; with `force` from the start."""
    main = accelerator.is_main_process
    locked = exclusive(job.run_dir) if main else nullcontext()
    with locked, explain_dead_worker(), explain_out_of_memory():
        if main:
            if force:
                remove_run(job.run_dir)
            describe_run(job, accelerator.device)
        accelerator.wait_for_everyone()
        for part in (*job.stages, job):
            if not part.finished:
                part.run_dir.mkdir(exist_ok=True)
                fit(part, accelerator)
        if main:
            for path in leftover_files(job.run_dir):
                path.unlink(missing_ok=True)


def leave_finished(job: FoldJob, accelerator: Accelerator) -> None:
    """Leave the weights of a finished fold as they are; what changes no weights follows the recipe."""
    accelerator.print(f"train {job.run.name} fold {job.run.fold}: already done ({job.run_dir})")
    if accelerator.is_main_process:
        update_recipe(job)
        remove_leftovers(job.run_dir, leftover_files(job.run_dir))


def remove_run(run_dir: Path) -> None:
    """Empty a fold's folder, but for its lock.

    Delete weights first and run.json last, so an interrupted --force never looks finished, and its
    checkpoints never look like those of another run.
    """
    order = {WEIGHTS: 0, RUN: 2}
    for path in sorted(run_dir.iterdir(), key=lambda path: order.get(path.name, 1)):
        if path.name not in (LOCK, HOLDER):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def head_warnings(recipe: Recipe) -> Iterator[str]:
    """What may go wrong between the loss and the head: LDAM multiplies cosines by 30, other losses do not."""
    name, cosine = recipe.loss.name, HEADS[recipe.model.head.name].cosines
    cosines = LOSSES[name].cosines if name in LOSSES else None
    if cosines == "needed" and not cosine:
        yield (
            f"{name} scales cosines, which --model.head.name {cosine_heads()[0]} gives. Logits of a linear "
            "head have no bound, so its softmax knows no doubt, and training may diverge."
        )
    if cosine and cosines is None:
        losses = [name for name, entry in LOSSES.items() if entry.cosines == "needed"]
        yield (
            f"the logits of a cosine head stay between -1 and 1, and {recipe.loss.name} does not scale them: "
            f"no class can become certain. Take --model.head.name linear, or the loss {' or '.join(losses)}."
        )
