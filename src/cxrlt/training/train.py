"""The stage `cxrlt train`: every asked-for fold of one plan."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from cxrlt.errors import UserError, listing
from cxrlt.folds.make import read_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.models.backbone import weights_licence
from cxrlt.recipe import Recipe
from cxrlt.training.job import REFIT, FoldJob, describe_run, require_same_run
from cxrlt.training.loop import fit
from cxrlt.training.setup import create_accelerator, loss_of


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
    accelerator.wait_for_everyone()
    accelerator.print(f"train {plan.name}: weights' licence: {weights_licence(plan.recipe.model)}")
    if warning := head_warning(plan.recipe):
        accelerator.print(f"train {plan.name}: {warning}")
    for job in jobs:
        if job.finished and not plan.force:
            accelerator.print(f"train {plan.name} fold {job.fold}: already done ({job.run_dir})")
            continue
        main = accelerator.is_main_process
        with _exclusive(job.run_dir) if main else nullcontext():
            if main:
                _prepare(job, plan.force, accelerator.device)
            accelerator.wait_for_everyone()
            fit(job, accelerator)
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
    """What `train` works on, one job per fold. Raises UserError for a fold that does not exist."""
    challenge, workspace = source.challenge, source.workspace
    folds = read_folds(challenge, workspace)
    wanted = [REFIT] if plan.refit else list(range(folds.n_folds)) if plan.folds is None else list(plan.folds)
    unknown = [fold for fold in wanted if fold != REFIT and not 0 <= int(fold) < folds.n_folds]
    if unknown:
        raise UserError(f"--fold {listing(unknown)}: {challenge.name} has folds 0 to {folds.n_folds - 1}.")
    run_dir = workspace.run_dir(challenge.name, plan.name)
    _require_one_kind(run_dir, plan)
    table, cache = source.folded(folds.frame.index, plan.recipe.data.cache_size)
    fold_of = folds.frame.loc[table.index, "fold"]
    return [
        FoldJob(
            challenge=challenge.name,
            name=plan.name,
            fold=str(fold),
            seed=plan.seed,
            recipe=plan.recipe,
            classes=challenge.classes,
            task=challenge.task,
            channels=challenge.channels,
            metric=challenge.metric,
            folds_sha256=folds.sha256,
            run_dir=run_dir / (REFIT if fold == REFIT else f"fold{fold}"),
            cache=cache,
            train=table[fold_of != fold],
            valid=table[fold_of == fold],
        )
        for fold in wanted
    ]


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
        for path in job.run_dir.iterdir():
            if path.name != "fold.lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    describe_run(job, device)


@contextmanager
def _exclusive(run_dir: Path) -> Iterator[None]:
    """Only one process trains a fold; the lock goes when its process dies."""
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run_dir / "fold.lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{run_dir} is being trained by another process.") from error
