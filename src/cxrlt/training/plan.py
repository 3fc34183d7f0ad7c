"""The request of `cxrlt train`, and its jobs: one for each fold."""

import functools
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT
from cxrlt.folds.rows import TrainRows, read_train_rows
from cxrlt.folds.split import split_patients
from cxrlt.inputs.images import ImageSource
from cxrlt.recipe import Recipe
from cxrlt.training.init_from import add_initial_weights, find_init_from, require_no_leakage
from cxrlt.training.job import FoldData, FoldJob, FoldRun
from cxrlt.training.long_tail import require_single_label, rows_left_out
from cxrlt.training.record import read_run_record, training_provenance
from cxrlt.training.run_paths import RUN, fold_dir
from cxrlt.training.setup import derive_seed
from cxrlt.training.stages import add_stages

MAX_PARTS = 20
"""Largest number of parts that the patients are split into: smaller parts balance labels less well."""


@dataclass(frozen=True)
class TrainPlan:
    """A recipe and the name of its run; `folds` None means all folds, `refit` one model on all rows.

    `keep_trained` keeps finished folds although their training data have changed.
    """

    name: str
    recipe: Recipe
    folds: tuple[int, ...] | None = None
    refit: bool = False
    seed: int = 0
    force: bool = False
    keep_trained: bool = False


def create_fold_jobs(source: ImageSource, plan: TrainPlan, rows: TrainRows | None = None) -> list[FoldJob]:
    """Create one job per fold; `rows` are the rows of the folds file.

    Raises UserError for a fold that does not exist, for rows that are no longer in the training table, for a
    refit without rows that are new in the table, for initial weights that are missing or leak validation
    rows, and for a long tail of a multi-label task.
    """
    challenge = source.challenge
    rows = rows or read_train_rows(challenge, source.workspace)
    rows.require_complete(challenge.name)
    folds = _select_folds(plan, rows, challenge.name)
    _require_unused_name(source.workspace.run_dir(challenge.name, plan.name), plan)
    table, cache = source.load_train_rows(rows.table, plan.recipe.data.cache_size)
    row_folds, table = table["fold"].to_numpy().astype(str), table.drop(columns="fold")
    units = table.assign(patient=None) if rows.folds.record.by == "image" else table
    pixels = cache.all_hashes()  # by id, including rows whose image cannot be read
    jobs = []
    for fold in folds:
        init_from = find_init_from(source, plan.recipe.model, plan.name, fold)
        run_dir = fold_dir(source.workspace.run_dir(challenge.name, plan.name), fold)
        origin = init_from.origin if init_from else None
        provenance = training_provenance(plan.recipe, challenge, rows, fold, pixels, origin)
        run = FoldRun(plan.name, fold, plan.seed, plan.recipe, run_dir, provenance, init_from)
        classes = _class_order(challenge, run, plan.force)
        masks = _row_masks(challenge, run, units, row_folds == fold)
        jobs.append(FoldJob(challenge, run, FoldData(classes, table, *masks, cache)))
    require_no_leakage(jobs, source)
    jobs = add_initial_weights(jobs, source, rows, force=plan.force)
    cache_for_size = functools.cache(lambda size: source.load_train_rows(rows.table, size)[1])
    return [add_stages(job, cache_for_size) if plan.force or not job.is_finished else job for job in jobs]


def _row_masks(
    challenge: Challenge, run: FoldRun, table: pd.DataFrame, valid_mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the masks (n_rows,) of a fold's data: validation, holdout, left out by the long tail."""
    recipe, ratio = run.recipe, run.recipe.data.long_tail
    holdout_mask, long_tail_mask = np.zeros((2, len(table)), dtype=bool)
    if recipe.uses_holdout:
        share = recipe.data.holdout_share
        ids = draw_holdout(table[~valid_mask], challenge.classes, share, run.seed, run.fold)
        holdout_mask = table.index.isin(ids)
    if ratio is not None:
        require_single_label(challenge)
        train = ~valid_mask & ~holdout_mask
        labels = table.loc[train, list(challenge.classes)].to_numpy()
        long_tail_mask[train] = rows_left_out(labels, ratio, derive_seed("long_tail", run.seed, run.fold))
    return valid_mask, holdout_mask, long_tail_mask


def draw_holdout(
    rows: pd.DataFrame, classes: tuple[str, ...], share: float, seed: int, fold: str
) -> pd.Index:
    """Return the ids of the holdout rows, about `share` of the patients: they choose weights, not train.

    `rows` (index image_id) are the rows of the other folds. Patients stay whole (images if no row has a
    patient), and labels are balanced as over folds. A label with too few patients stays in the training rows.
    """
    max_parts = min(MAX_PARTS, rows["patient"].nunique() or len(rows))
    fraction = max(Fraction(share).limit_denominator(max_parts), Fraction(1, max_parts))
    part = split_patients(rows, classes, fraction.denominator, derive_seed("inner", seed, fold) % 2**32)
    # the first parts get the rarest labels
    return rows.index[part >= fraction.denominator - fraction.numerator]


def _select_folds(plan: TrainPlan, rows: TrainRows, challenge: str) -> list[str]:
    """Return the requested folds. Raises UserError if one does not exist or a refit would miss rows."""
    if plan.refit:
        if len(rows.new):
            raise UserError(
                f"--refit trains on all rows, and {len(rows.new):,} rows of the training table are not in "
                f"folds.csv: {listing(rows.new)}. Add them with: cxrlt folds {challenge} --extend"
            )
        return [REFIT]
    n_folds = rows.folds.n_folds
    folds = range(n_folds) if plan.folds is None else plan.folds
    unknown = [fold for fold in folds if not 0 <= fold < n_folds]
    if unknown:
        raise UserError(f"--fold {listing(unknown)}: {challenge} has folds 0 to {n_folds - 1}.")
    return [str(fold) for fold in folds]


def _class_order(challenge: Challenge, run: FoldRun, force: bool) -> tuple[str, ...]:
    """Return the classes in the order of the existing run, or of its initial weights, not of the table."""
    known = [run.init_from.classes] if run.init_from else []
    if (run.dir / RUN).is_file() and not force:
        known.insert(0, read_run_record(run.dir, challenge.name).classes)
    same = [classes for classes in known if set(classes) == set(challenge.classes)]
    return same[0] if same else challenge.classes


def _require_unused_name(run_dir: Path, plan: TrainPlan) -> None:
    """Raises UserError if the name is in use for something else: folds, a refit or an ensemble."""
    exists = {
        "an ensemble": (run_dir / "weights.json").is_file(),
        "folds": any(run_dir.glob("fold*")),
        "a refit": (run_dir / REFIT).is_dir(),
    }
    exists.pop("a refit" if plan.refit else "folds")
    for kind, found in exists.items():
        if found:
            raise UserError(f"{run_dir} already holds {kind}: choose another --name for this run.")
