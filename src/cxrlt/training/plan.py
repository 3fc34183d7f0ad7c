"""What `cxrlt train` is asked for, and the jobs that come of it: one for each fold."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT
from cxrlt.folds.rows import TrainRows, read_train_rows
from cxrlt.inputs.images import ImageSource
from cxrlt.recipe import Recipe
from cxrlt.training.init_from import find_init_from, require_no_leakage
from cxrlt.training.job import FoldData, FoldJob, FoldRun
from cxrlt.training.record import made_of_training, read_run
from cxrlt.training.run_paths import RUN, unit_dir
from cxrlt.training.soup import soup_holdout
from cxrlt.training.stages import with_stages


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


def fold_jobs(source: ImageSource, plan: TrainPlan, rows: TrainRows | None = None) -> list[FoldJob]:
    """What `train` works on, one job per fold; `rows` are those that were split into folds.

    Raises UserError for a fold that does not exist, for rows that the training table has lost, for a refit
    that would miss rows it has got, and where what a fold starts from is not there or may have seen its rows.
    """
    challenge = source.challenge
    rows = rows or read_train_rows(challenge, source.workspace)
    rows.require_complete(challenge.name)
    folds = _chosen_folds(plan, rows, challenge.name)
    _require_one_kind(source.workspace.run_dir(challenge.name, plan.name), plan)
    table, cache = source.folded(rows.table, plan.recipe.data.cache_size)
    fold_of, table = table["fold"].to_numpy().astype(str), table.drop(columns="fold")
    pixels = cache.all_hashes()  # by id, also of the rows whose image cannot be read
    jobs = []
    for fold in folds:
        init_from = find_init_from(source, plan.recipe.model, plan.name, fold)
        run_dir = unit_dir(source.workspace.run_dir(challenge.name, plan.name), fold)
        origin = init_from.origin if init_from else None
        made_of = made_of_training(plan.recipe, challenge, rows, fold, pixels, origin)
        run = FoldRun(plan.name, fold, plan.seed, plan.recipe, run_dir, made_of, init_from)
        left_out = fold_of == fold
        held_for_soup = np.zeros(len(table), dtype=bool)
        if plan.recipe.soup.kind != "none":
            share = plan.recipe.soup.holdout_share
            ids = soup_holdout(table[~left_out], challenge.classes, share, plan.seed, fold)
            held_for_soup = table.index.isin(ids)
        classes = _class_order(challenge, run, plan.force)
        jobs.append(FoldJob(challenge, run, FoldData(classes, table, left_out, held_for_soup, cache)))
    require_no_leakage(jobs, source)
    cache_at = functools.cache(lambda size: source.folded(rows.table, size)[1])
    return [with_stages(job, cache_at) if plan.force or not job.finished else job for job in jobs]


def _chosen_folds(plan: TrainPlan, rows: TrainRows, challenge: str) -> list[str]:
    """The folds that are asked for. Raises UserError for one that does not exist or would miss rows."""
    if plan.refit:
        if len(rows.new):
            raise UserError(
                f"--refit trains on all rows, and {len(rows.new):,} rows of the training table are not in "
                f"folds.csv: {listing(rows.new)}. Take them in with: cxrlt folds {challenge} --extend"
            )
        return [REFIT]
    n_folds = rows.folds.n_folds
    folds = range(n_folds) if plan.folds is None else plan.folds
    unknown = [fold for fold in folds if not 0 <= fold < n_folds]
    if unknown:
        raise UserError(f"--fold {listing(unknown)}: {challenge} has folds 0 to {n_folds - 1}.")
    return [str(fold) for fold in folds]


def _class_order(challenge: Challenge, run: FoldRun, force: bool) -> tuple[str, ...]:
    """The classes as a run that was begun has them, or the one it starts from: their columns may be moved."""
    known = [run.init_from.classes] if run.init_from else []
    if (run.dir / RUN).is_file() and not force:
        known.insert(0, read_run(run.dir, challenge.name).classes)
    same = [classes for classes in known if set(classes) == set(challenge.classes)]
    return same[0] if same else challenge.classes


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
