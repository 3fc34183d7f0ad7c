"""Weights of another run that a fold starts from, and the proof that they never saw what the fold leaves out.

A source was trained on rows, and so was the source of the source: run.json records them all.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from cxrlt.artifacts import Workspace, read_json
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT, Folds, read_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.shared_patients import other_tables
from cxrlt.provenance import digest_of_weights
from cxrlt.recipe import ModelConfig
from cxrlt.training.job import FoldJob, InitFrom
from cxrlt.training.record import Origin, read_run
from cxrlt.training.run_paths import SOUP_HOLDOUT, WEIGHTS, train_fold_command, unit_dir


@dataclass(frozen=True)
class Collection:
    """A challenge's folds and the rows of its tables that are there: columns image_id, patient, by split."""

    folds: Folds
    splits: Mapping[str, pd.DataFrame]

    @property
    def rows(self) -> pd.DataFrame:
        return pd.concat(self.splits.values(), ignore_index=True)


def find_init_from(source: ImageSource, cfg: ModelConfig, name: str, fold: str) -> InitFrom | None:
    """Where `fold` of the run `name` starts: RUN or CHALLENGE:RUN, fold by fold, or the refit of another.

    None: from the backbone's own weights. Raises UserError if that run is not trained, is an ensemble, or is
    a refit on all rows of these folds.
    """
    if not cfg.init_from:
        return None
    flag = f"model.init_from {cfg.init_from}"
    *other, run = cfg.init_from.split(":", 1)
    challenge = other[0] if other else source.challenge.name
    own = challenge == source.challenge.name
    if own and run == name:
        raise UserError(f"{flag}: a run cannot start from itself. Give this one a --name of its own.")
    run_dir = source.workspace.run_dir(challenge, run)
    if (run_dir / "weights.json").is_file():
        raise UserError(f"{flag} is an ensemble, which has no weights of its own: name one of its members.")
    is_refit = (run_dir / REFIT).is_dir()
    if own and is_refit and fold != REFIT:
        raise UserError(
            f"{flag} was fitted on all rows (--refit), those that fold {fold} leaves out included. "
            f"Name a run that was trained fold by fold, or train this one with --refit."
        )
    unit = REFIT if is_refit or fold == REFIT else fold
    directory = unit_dir(run_dir, unit)
    command = train_fold_command(run_dir, unit, challenge)
    if not (directory / WEIGHTS).is_file():
        raise UserError(f"{flag}: {directory} is not trained. Train it with: {command}")
    card = read_json(directory / "card.json", made_by=f"{command} --force")
    record = read_run(directory, challenge)
    origin = Origin(
        run=f"{challenge}:{run}",
        fold=unit,
        weights=digest_of_weights(directory / WEIGHTS),
        rows=record.made_of["rows"],
        started_from=record.started_from,
    )
    return InitFrom(
        weights=directory / WEIGHTS,
        same_classes=not cfg.new_head and set(record.classes) == set(source.challenge.classes),
        label=f"{challenge}:{run} {'refit' if unit == REFIT else f'fold {unit}'}",
        licence=card["pretrained_weights_licence"],
        origin=origin,
        classes=record.classes,
    )


def require_no_leakage(jobs: list[FoldJob], source: ImageSource) -> None:
    """What a fold starts from must not have been trained on a left-out row or another image of its patient.

    Sources of sources count. Rows of another challenge are compared where any table of it shares an image
    with any table of this one; then those of dev and test count as left out too. Raises UserError with the
    number of such images, and where the source was trained on another split than its folds.csv now holds.
    """
    read = cache(lambda challenge: _collection(challenge, source))
    for job in jobs:
        for origin in _lineage(job.run.origin):
            leaked = _leaked(job, origin, read, source)
            if len(leaked):
                raise UserError(_leak_sentence(job, origin, leaked))


def _collection(name: str, source: ImageSource) -> Collection:
    """Other challenges lie below the same root: --inputs and its like speak of this one."""
    own = name == source.challenge.name
    workspace = source.workspace if own else Workspace(source.workspace.root)
    challenge = source.challenge if own else get_challenge(name, workspace.inputs_dir(name))
    tables = {
        "train": challenge.read("train", workspace.inputs_dir(name)),
        **other_tables(challenge, workspace),
    }
    rows = {split: table["patient"].rename_axis("image_id").reset_index() for split, table in tables.items()}
    return Collection(read_folds(challenge, workspace), rows)


def _lineage(origin: Origin | None) -> Iterator[Origin]:
    while origin is not None:
        yield origin
        origin = origin.started_from


def _leaked(job: FoldJob, origin: Origin, read: Callable[[str], Collection], source: ImageSource) -> pd.Index:
    """Which left-out rows the origin was trained on, or has seen other images of the patient of."""
    challenge, run = origin.run.split(":", 1)
    run_dir = source.workspace.run_dir(challenge, run)
    theirs, ours = read(challenge), read(job.challenge.name)
    if not theirs.folds.has_trained({"rows": origin.rows}, origin.fold):
        again = f"{train_fold_command(run_dir, origin.fold, challenge)} --force"
        raise UserError(
            f"model.init_from: {origin.run} was trained on another split than the folds.csv there is now "
            f"and may have seen any row. Train it again: {again}"
        )
    trained = _trained_on(origin, theirs, run_dir)
    held_out = [table["patient"] for table in (job.data.valid, job.data.soup_holdout) if len(table)]
    left_out = pd.concat(held_out or [trained[:0]])
    patients = set(trained.dropna())
    if challenge != job.challenge.name:
        both = theirs.rows.merge(ours.rows, on="image_id", suffixes=("_theirs", "_ours"))
        if both.empty:
            return both["image_id"][:0]
        published = [rows.set_index("image_id")["patient"] for k, rows in ours.splits.items() if k != "train"]
        left_out = pd.concat([left_out, *published])
        # the two may call a patient by different names, which their common images tie together
        known = both["patient_theirs"].isin(patients) | both["image_id"].isin(trained.index)
        patients |= set(both.loc[known, "patient_ours"].dropna())
    return left_out.index[left_out.index.isin(trained.index) | left_out.isin(patients)]


def _trained_on(origin: Origin, collection: Collection, run_dir: Path) -> pd.Series:
    """Patient (or NA) of every image the origin was trained on; index image_id.

    The rows that judged a soup were not; where the origin's weights are gone it is not known which they were.
    """
    frame = collection.folds.frame
    fold = origin.fold
    rows = frame["patient"] if fold == REFIT else frame.loc[frame["fold"] != int(fold), "patient"]
    directory = unit_dir(run_dir, fold)
    holdout, weights = directory / SOUP_HOLDOUT, directory / WEIGHTS
    if holdout.is_file() and weights.is_file() and digest_of_weights(weights) == origin.weights:
        rows = rows.drop(pd.read_csv(holdout, dtype=str, keep_default_na=False)["image_id"], errors="ignore")
    return rows


def _leak_sentence(job: FoldJob, origin: Origin, leaked: pd.Index) -> str:
    holdout = job.data.soup_holdout.index
    fix = (
        "Train the source with the same soup.holdout_share and --seed, for then it leaves the same rows out"
        if len(holdout) and leaked.isin(holdout).all()
        else "Train the source on folds made without them"
    )
    return (
        f"model.init_from: {len(leaked):,} images that fold {job.run.fold} of {job.run.name} must not have "
        f"seen, or others of their patients, were in the training of {origin.run} fold {origin.fold}: "
        f"{listing(leaked)}. {fix}, or start from another run."
    )
