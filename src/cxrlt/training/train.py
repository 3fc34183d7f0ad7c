"""The stage `cxrlt train`: every asked-for fold of one plan."""

import functools
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxrlt.errors import UserError, listing
from cxrlt.folds.make import read_folds
from cxrlt.inputs.cache import ImageCache, rows_of_ids
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.readers import readers_watched
from cxrlt.locks import HOLDER, LOCK, exclusive, sweep
from cxrlt.recipe import Recipe
from cxrlt.training.batch_size import require_batches_that_train
from cxrlt.training.inner import inner_rows
from cxrlt.training.job import RUN, FoldJob, Start, describe_run, licence_of, require_same_run
from cxrlt.training.memory import memory_watched
from cxrlt.training.places import REFIT, WEIGHTS
from cxrlt.training.setup import create_accelerator, loss_of
from cxrlt.training.stages import fit_in_stages, left_in, with_stages
from cxrlt.training.start import find_start, require_unseen


@dataclass(frozen=True)
class TrainPlan:
    """A recipe under a name: `folds` None means every fold, `refit` one model on all rows instead."""

    name: str
    recipe: Recipe
    folds: tuple[int, ...] | None = None
    refit: bool = False
    seed: int = 0
    force: bool = False


def train(source: ImageSource, plan: TrainPlan) -> list[FoldJob]:
    """Train every fold of `plan` that is not finished. Returns the jobs, finished ones included.

    Raises UserError if the run's folder holds another run, a fold does not exist, or another process is
    training it.
    """
    accelerator = create_accelerator(plan.recipe)
    jobs = fold_jobs(source, plan)
    for job in jobs:
        if not plan.force:
            require_same_run(job)
        loss_of(job)  # a wrong option is found before any fold is trained
    require_batches_that_train([job for job in jobs if plan.force or not job.finished], accelerator)
    accelerator.wait_for_everyone()
    for licence in dict.fromkeys(licence_of(job) for job in jobs):
        accelerator.print(f"train {plan.name}: weights' licence: {licence}")
    if warning := head_warning(plan.recipe):
        accelerator.print(f"train {plan.name}: {warning}")
    main = accelerator.is_main_process
    for job in jobs:
        if job.finished and not plan.force:
            accelerator.print(f"train {plan.name} fold {job.fold}: already done ({job.run_dir})")
            if main:
                sweep(job.run_dir, left_in(job.run_dir))
            continue
        with exclusive(job.run_dir) if main else nullcontext(), readers_watched(), memory_watched():
            if main:
                _prepare(job, plan.force, accelerator.device)
            accelerator.wait_for_everyone()
            fit_in_stages(job, accelerator)
    return jobs


def head_warning(recipe: Recipe) -> str | None:
    """What may go wrong between the loss and the head: LDAM multiplies cosines by 30, other losses do not."""
    cosine = recipe.model.head == "cosine"
    if recipe.loss.name == "ldam" and not cosine:
        return (
            "ldam scales cosines, which --model.head cosine gives. Logits of a linear head have no bound, "
            "so its softmax knows no doubt, and training may diverge."
        )
    if cosine and recipe.loss.name not in ("ldam", "lmf"):
        return (
            f"the logits of a cosine head stay between -1 and 1, and {recipe.loss.name} does not scale them: "
            "no class can become certain. Take --model.head linear, or the loss ldam."
        )
    return None


def fold_jobs(source: ImageSource, plan: TrainPlan) -> list[FoldJob]:
    """What `train` works on, one job per fold.

    Raises UserError for a fold that does not exist, and where what it starts from is not there or not pure.
    """
    challenge, workspace = source.challenge, source.workspace
    folds = read_folds(challenge, workspace)
    wanted = [REFIT] if plan.refit else list(range(folds.n_folds)) if plan.folds is None else list(plan.folds)
    unknown = [fold for fold in wanted if fold != REFIT and not 0 <= int(fold) < folds.n_folds]
    if unknown:
        raise UserError(f"--fold {listing(unknown)}: {challenge.name} has folds 0 to {folds.n_folds - 1}.")
    _require_one_kind(workspace.run_dir(challenge.name, plan.name), plan)
    table, cache = source.folded(folds.frame.index, plan.recipe.data.cache_size)
    fold_of = rows_of_ids(folds.frame["fold"], table.index, lambda absent: f"folds.csv lacks {absent}.")
    jobs = [_fold_job(source, plan, str(fold), fold_of, folds.sha256, table, cache) for fold in wanted]
    require_unseen(jobs, source)
    cached = functools.cache(lambda size: source.folded(folds.frame.index, size)[1])
    return [with_stages(job, cached) if plan.force or not job.finished else job for job in jobs]


def _fold_job(
    source: ImageSource,
    plan: TrainPlan,
    fold: str,
    fold_of: np.ndarray,
    folds_sha256: str,
    table: pd.DataFrame,
    cache: ImageCache,
) -> FoldJob:
    challenge, cfg = source.challenge, plan.recipe
    left_out = fold_of.astype(str) == fold
    judging = np.zeros(len(table), dtype=bool)
    if cfg.soup.kind != "none":
        rows = table[~left_out]
        judging = table.index.isin(inner_rows(rows, challenge.classes, cfg.soup.inner_share, plan.seed, fold))
    run_dir = source.workspace.run_dir(challenge.name, plan.name)
    return FoldJob(
        challenge=challenge.name,
        name=plan.name,
        fold=fold,
        seed=plan.seed,
        recipe=cfg,
        classes=challenge.classes,
        task=challenge.task,
        channels=challenge.channels,
        metric=challenge.metric,
        no_finding=challenge.no_finding,
        folds_sha256=folds_sha256,
        run_dir=run_dir / (REFIT if fold == REFIT else f"fold{fold}"),
        cache=cache,
        table=table,
        left_out=left_out,
        judging=judging,
        start=_start_of(source, plan, fold),
    )


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
