"""The stage `cxrlt train`: every asked-for fold of one plan."""

import functools
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT
from cxrlt.folds.rows import TrainRows, read_train_rows
from cxrlt.heads import HEADS, cosine_heads
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.loader_workers import readers_watched
from cxrlt.losses import LOSSES
from cxrlt.models.backbone import require_head_options
from cxrlt.recipe import Recipe
from cxrlt.system.locks import HOLDER, LOCK, exclusive, remove_leftovers
from cxrlt.training.batch_size import require_batches_that_train
from cxrlt.training.init_from import find_start, require_unseen
from cxrlt.training.job import FoldJob, Start, describe_run, licence_of
from cxrlt.training.memory import memory_watched
from cxrlt.training.record import made_of_training, read_run
from cxrlt.training.run_paths import RUN, WEIGHTS, unit_dir
from cxrlt.training.same_run import keep_or_refuse, require_same_run, take_over_recipe
from cxrlt.training.setup import create_accelerator, loss_of
from cxrlt.training.soup_holdout import inner_rows
from cxrlt.training.stages import fit_in_stages, left_in, with_stages


@dataclass(frozen=True)
class TrainPlan:
    """A recipe under a name: `folds` None means every fold, `refit` one model on all rows instead.

    `keep_trained`: finished folds stay as they are although the data they were trained on have changed.
    """

    name: str
    recipe: Recipe
    folds: tuple[int, ...] | None = None
    refit: bool = False
    seed: int = 0
    force: bool = False
    keep_trained: bool = False


def train(source: ImageSource, plan: TrainPlan) -> list[FoldJob]:
    """Train every fold of `plan` that is not finished. Returns the jobs, finished ones included.

    Raises UserError if the run's folder holds another run, or one that was trained on other data than there
    are now (unless `keep_trained`), if a fold does not exist, or another process is training it.
    """
    require_head_options(plan.recipe.model)
    accelerator = create_accelerator(plan.recipe)
    main = accelerator.is_main_process
    rows = read_train_rows(source.challenge, source.workspace)
    jobs = fold_jobs(source, plan, rows)
    for note in rows.notes(source.challenge.name):
        accelerator.print(f"train {plan.name}: {note}")
    if not plan.force:
        for job in jobs:
            require_same_run(job, rows)
        keep_or_refuse(jobs, rows, keep=plan.keep_trained, write=main)
    for job in jobs:
        loss_of(job)  # a wrong option is found before any fold is trained
    require_batches_that_train([job for job in jobs if plan.force or not job.finished], accelerator)
    accelerator.wait_for_everyone()
    for licence in dict.fromkeys(licence_of(job) for job in jobs):
        accelerator.print(f"train {plan.name}: weights' licence: {licence}")
    if warning := head_warning(plan.recipe):
        accelerator.print(f"train {plan.name}: {warning}")
    for job in jobs:
        if job.finished and not plan.force:
            accelerator.print(f"train {plan.name} fold {job.fold}: already done ({job.run_dir})")
            if main:
                take_over_recipe(job)
                remove_leftovers(job.run_dir, left_in(job.run_dir))
            continue
        with exclusive(job.run_dir) if main else nullcontext(), readers_watched(), memory_watched():
            if main:
                _prepare(job, plan.force, accelerator.device)
            accelerator.wait_for_everyone()
            fit_in_stages(job, accelerator)
    return jobs


def head_warning(recipe: Recipe) -> str | None:
    """What may go wrong between the loss and the head: LDAM multiplies cosines by 30, other losses do not."""
    name, cosine = recipe.loss.name, HEADS[recipe.model.head.name].cosines
    cosines = LOSSES[name].cosines if name in LOSSES else None
    if cosines == "needed" and not cosine:
        return (
            f"{name} scales cosines, which --model.head.name {cosine_heads()[0]} gives. Logits of a linear "
            "head have no bound, so its softmax knows no doubt, and training may diverge."
        )
    if cosine and cosines is None:
        losses = [name for name, entry in LOSSES.items() if entry.cosines == "needed"]
        return (
            f"the logits of a cosine head stay between -1 and 1, and {recipe.loss.name} does not scale them: "
            f"no class can become certain. Take --model.head.name linear, or the loss {' or '.join(losses)}."
        )
    return None


def fold_jobs(source: ImageSource, plan: TrainPlan, rows: TrainRows | None = None) -> list[FoldJob]:
    """What `train` works on, one job per fold; `rows` are those that were split into folds.

    Raises UserError for a fold that does not exist, for rows that the training table has lost, for a refit
    that would miss rows it has got, and where what a fold starts from is not there or may have seen its rows.
    """
    challenge, workspace = source.challenge, source.workspace
    rows = rows or read_train_rows(challenge, workspace)
    rows.require_complete(challenge.name)
    n_folds = rows.folds.n_folds
    wanted = [REFIT] if plan.refit else list(range(n_folds)) if plan.folds is None else list(plan.folds)
    unknown = [fold for fold in wanted if fold != REFIT and not 0 <= int(fold) < n_folds]
    if unknown:
        raise UserError(f"--fold {listing(unknown)}: {challenge.name} has folds 0 to {n_folds - 1}.")
    if plan.refit and len(rows.new):
        raise UserError(
            f"--refit trains on all rows, and {len(rows.new):,} rows of the training table are not in "
            f"folds.csv: {listing(rows.new)}. Take them in with: cxrlt folds {challenge.name} --extend"
        )
    _require_one_kind(workspace.run_dir(challenge.name, plan.name), plan)
    table, cache = source.folded(rows.table, plan.recipe.data.cache_size)
    fold_of, table = table["fold"].to_numpy(), table.drop(columns="fold")  # which all jobs share
    pixels = cache.all_hashes()
    jobs = [_fold_job(source, plan, str(fold), rows, table, fold_of, cache, pixels) for fold in wanted]
    require_unseen(jobs, source)
    cached = functools.cache(lambda size: source.folded(rows.table, size)[1])
    return [with_stages(job, cached) if plan.force or not job.finished else job for job in jobs]


def _fold_job(
    source: ImageSource,
    plan: TrainPlan,
    fold: str,
    rows: TrainRows,
    table: pd.DataFrame,
    fold_of: np.ndarray,
    cache: ImageCache,
    pixels: pd.Series,
) -> FoldJob:
    """`table` has the rows whose image can be read; `rows` and `pixels` (by id) also have the others."""
    challenge, cfg = source.challenge, plan.recipe
    left_out = fold_of.astype(str) == fold
    judging = np.zeros(len(table), dtype=bool)
    if cfg.soup.kind != "none":
        others = table[~left_out]
        judging = table.index.isin(
            inner_rows(others, challenge.classes, cfg.soup.inner_share, plan.seed, fold)
        )
    run_dir = unit_dir(source.workspace.run_dir(challenge.name, plan.name), fold)
    start = _start_of(source, plan, fold)
    return FoldJob(
        challenge=challenge.name,
        name=plan.name,
        fold=fold,
        seed=plan.seed,
        recipe=cfg,
        classes=_class_order(challenge, run_dir, start, plan.force),
        task=challenge.task,
        channels=challenge.channels,
        metric=challenge.metric,
        no_finding=challenge.no_finding,
        rows=rows.folds.identity.rows(fold),
        run_dir=run_dir,
        cache=cache,
        table=table,
        left_out=left_out,
        judging=judging,
        made_of=made_of_training(cfg, challenge, rows, fold, pixels, start.origin if start else None),
        start=start,
    )


def _class_order(challenge: Challenge, run_dir: Path, start: Start | None, force: bool) -> tuple[str, ...]:
    """The classes as a run that was begun has them, or the one it starts from: their columns may be moved."""
    known = [start.classes] if start else []
    if (run_dir / RUN).is_file() and not force:
        known.insert(0, read_run(run_dir, challenge.name).classes)
    same = [classes for classes in known if set(classes) == set(challenge.classes)]
    return same[0] if same else challenge.classes


def _start_of(source: ImageSource, plan: TrainPlan, fold: str) -> Start | None:
    cfg = plan.recipe.model
    if not cfg.start_from:
        return None
    start = find_start(source, cfg.start_from, plan.name, fold)
    return replace(start, same_classes=False) if cfg.new_head else start


def _require_one_kind(run_dir: Path, plan: TrainPlan) -> None:
    """A name stands for folds, for a refit on all rows or for an ensemble, not for two of them."""
    held = {
        "an ensemble": (run_dir / "weights.json").is_file(),
        "folds": any(run_dir.glob("fold*")),
        "a refit": (run_dir / REFIT).is_dir(),
    }
    held.pop("a refit" if plan.refit else "folds")
    for kind, there in held.items():
        if there:
            raise UserError(f"{run_dir} already holds {kind}: give this run a --name of its own.")


def _prepare(job: FoldJob, force: bool, device: torch.device) -> None:
    if force:
        for path in sorted(job.run_dir.iterdir(), key=_place_in_removal):
            if path.name not in (LOCK, HOLDER):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    describe_run(job, device)


def _place_in_removal(path: Path) -> int:
    """What is half removed must not pass for finished, nor its checkpoints for those of another run."""
    return {WEIGHTS: 0, RUN: 2}.get(path.name, 1)
