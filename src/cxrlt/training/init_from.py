"""Initial weights from another run or from a pretraining, and what they have seen of the challenge.

Another run must not have been trained on the fold's validation rows. It may itself have started from a run:
run.json records the whole chain. A pretraining may have seen these rows, but every report says so.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT, Folds, read_folds
from cxrlt.folds.rows import TrainRows
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.shared_patients import read_dev_and_test
from cxrlt.models.hub import fetch, is_hub_address
from cxrlt.models.pretrained import weights_licence
from cxrlt.provenance import digest_of_weights
from cxrlt.recipe import ModelConfig
from cxrlt.recipe.known_weights import known_weights
from cxrlt.system.atomic_files import sha256_of
from cxrlt.training.initial_weights import InitialWeights, SeenImages, count_seen_images
from cxrlt.training.job import FoldJob, InitFrom
from cxrlt.training.record import Origin, read_run_record
from cxrlt.training.run_paths import HOLDOUT, RUN, WEIGHTS, fold_dir, train_fold_command

RESTRICTED = re.compile(r"\bnc\b|non-?commercial|research|amlr|seer")
"""Parts of timm's names of licences that forbid commercial use."""


@dataclass(frozen=True)
class ChallengeRows:
    """The folds of a challenge and the rows of its tables, by split: columns image_id and patient."""

    folds: Folds
    splits: Mapping[str, pd.DataFrame]

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of all splits: columns image_id and patient."""
        return pd.concat(self.splits.values(), ignore_index=True)


def find_init_from(source: ImageSource, cfg: ModelConfig, name: str, fold: str) -> InitFrom | None:
    """Find the initial weights of `fold` of the run `name`: model.init_from is RUN or CHALLENGE:RUN.

    They are those of the same fold, or of the refit of another challenge. Return None without
    model.init_from: the backbone then starts from its pretrained weights. Raises UserError if that run is not
    trained, is an ensemble, or is a refit on all rows of these folds.
    """
    if not cfg.init_from:
        return None
    *prefix, run = cfg.init_from.split(":", 1)
    challenge = prefix[0] if prefix else source.challenge.name
    run_dir = source.workspace.run_dir(challenge, run)
    if challenge == source.challenge.name:
        _require_other_run(cfg.init_from, run, name, fold, is_refit=(run_dir / REFIT).is_dir())
    if (run_dir / "weights.json").is_file():
        raise UserError(
            f"model.init_from {cfg.init_from} is an ensemble, which has no weights: use one of its members."
        )
    source_fold = REFIT if (run_dir / REFIT).is_dir() or fold == REFIT else fold
    directory = fold_dir(run_dir, source_fold)
    command = train_fold_command(run_dir, source_fold, challenge)
    if not (directory / WEIGHTS).is_file():
        raise UserError(
            f"model.init_from {cfg.init_from}: {directory} is not trained. Train it with: {command}"
        )
    record = read_run_record(directory, challenge)
    origin = Origin(
        run=f"{challenge}:{run}",
        fold=source_fold,
        weights=digest_of_weights(directory / WEIGHTS),
        rows=record.provenance["rows"],
        started_from=record.started_from,
    )
    return InitFrom(
        weights=directory / WEIGHTS,
        same_classes=not cfg.new_head and set(record.classes) == set(source.challenge.classes),
        label=f"{challenge}:{run} {'refit' if source_fold == REFIT else f'fold {source_fold}'}",
        origin=origin,
        classes=record.classes,
        initial_weights=record.initial_weights,
    )


def add_initial_weights(
    jobs: Sequence[FoldJob], source: ImageSource, rows: TrainRows, *, force: bool
) -> list[FoldJob]:
    """Return the jobs with a description of their initial weights; a finished fold has that of its run.json.

    The file is hashed and the list model.pretrained_images counted once for all folds. Raises UserError for a
    list that cannot be used, and for a file on the hub that cannot be downloaded.
    """
    cfg = jobs[0].recipe.model
    own = cache(lambda: _describe_pretrained(cfg))

    @cache
    def count(path: Path) -> dict[str, SeenImages]:
        tables = {"train": rows.table, **read_dev_and_test(source.challenge, source.workspace)}
        return count_seen_images(path, tables, source.challenge.id_column)

    def describe(job: FoldJob) -> InitialWeights:
        if job.is_finished and (job.run_dir / RUN).is_file() and not force:
            return read_run_record(job.run_dir, source.challenge.name).initial_weights
        weights = job.run.init_from.initial_weights if job.run.init_from else own()
        if job.run.init_from is None and cfg.pretrained is False:
            return weights
        names = dict.fromkeys((*weights.pretrained_on, *cfg.pretrained_on))
        changes: dict[str, object] = {"pretrained_on": tuple(names)}
        if path := cfg.pretrained_images or weights.pretrained_images:
            changes |= {"pretrained_images": str(path), "seen": count(Path(path))}
        return weights.model_copy(update=changes)

    return [replace(job, run=replace(job.run, initial_weights=describe(job))) for job in jobs]


def _describe_pretrained(cfg: ModelConfig) -> InitialWeights:
    """Return licence, terms and origin of the weights of model.pretrained; hubs and rows state them."""
    licence, path = weights_licence(cfg), cfg.pretrained
    if isinstance(path, bool):
        return InitialWeights(licence=licence, restricted=RESTRICTED.search(licence) is not None)
    row = known_weights(cfg.weights) if cfg.weights else None
    file = fetch(path.as_posix()) if is_hub_address(path) else None
    local = file.path if file else path
    return InitialWeights(
        licence=row.licence if row else licence,
        restricted=row is not None and row.restricted,
        weights=cfg.weights,
        address=path.as_posix() if file else row and row.address,
        revision=file and file.revision,
        sha256=sha256_of(local) if local.is_file() else None,  # a missing file: its reader has the message
    )


def _require_other_run(init_from: str, run: str, name: str, fold: str, *, is_refit: bool) -> None:
    """Raise UserError if a run of the same challenge starts from itself or from a refit on all rows."""
    if run == name:
        raise UserError(
            f"model.init_from {init_from}: a run cannot start from itself. Choose another --name for it."
        )
    if is_refit and fold != REFIT:
        raise UserError(
            f"model.init_from {init_from} was trained on all rows (--refit), including the validation rows "
            f"of fold {fold}. Use a run that was trained fold by fold, or train this run with --refit."
        )


def require_no_leakage(jobs: list[FoldJob], source: ImageSource) -> None:
    """Check that initial weights were not trained on a validation row or on another image of its patient.

    The whole chain of runs is checked. Another challenge is checked if one of its tables shares an image with
    a table of this challenge; then dev and test rows count as validation rows too. Raises UserError with the
    number of leaked images, or if the other run was trained on a split that is not in its folds.csv.
    """
    read = cache(lambda challenge: _read_challenge_rows(challenge, source))
    for job in jobs:
        for origin in _origin_chain(job.run.origin):
            leaked = _leaked_ids(job, origin, read, source)
            if len(leaked):
                raise UserError(_leakage_message(job, origin, leaked))


def _read_challenge_rows(name: str, source: ImageSource) -> ChallengeRows:
    """Read folds and tables of a challenge; flags such as --inputs are for the run's own challenge only."""
    is_own = name == source.challenge.name
    workspace = source.workspace if is_own else Workspace(source.workspace.root)
    challenge = source.challenge if is_own else get_challenge(name, workspace.inputs_dir(name))
    tables = {
        "train": challenge.read("train", workspace.inputs_dir(name)),
        **read_dev_and_test(challenge, workspace),
    }
    rows = {split: table["patient"].rename_axis("image_id").reset_index() for split, table in tables.items()}
    return ChallengeRows(read_folds(challenge, workspace), rows)


def _origin_chain(origin: Origin | None) -> Iterator[Origin]:
    while origin is not None:
        yield origin
        origin = origin.started_from


def _leaked_ids(
    job: FoldJob, origin: Origin, read: Callable[[str], ChallengeRows], source: ImageSource
) -> pd.Index:
    """Return the ids of validation rows that `origin` was trained on, or whose patient it was trained on."""
    challenge, run = origin.run.split(":", 1)
    run_dir = source.workspace.run_dir(challenge, run)
    other, own = read(challenge), read(job.challenge.name)
    if not other.folds.was_training_split({"rows": origin.rows}, origin.fold):
        again = f"{train_fold_command(run_dir, origin.fold, challenge)} --force"
        raise UserError(
            f"model.init_from: {origin.run} was trained on a split that differs from its folds.csv, so "
            f"leakage cannot be excluded. Train it again: {again}"
        )
    trained = _trained_on(origin, other, run_dir)
    patient_columns = [table["patient"] for table in (job.data.valid, job.data.holdout) if len(table)]
    held_out = pd.concat(patient_columns or [trained[:0]])
    patients = set(trained.dropna())
    if challenge == job.challenge.name and own.folds.record.by == "image":
        patients = set()  # this leak is known, and every score says so
    if challenge != job.challenge.name:
        both = other.rows.merge(own.rows, on="image_id", suffixes=("_other", "_own"))
        if both.empty:
            return held_out.index[:0]
        published = [rows.set_index("image_id")["patient"] for k, rows in own.splits.items() if k != "train"]
        held_out = pd.concat([held_out, *published])
        # a patient may have different ids in the two challenges: match them by their common images
        known = both["patient_other"].isin(patients) | both["image_id"].isin(trained.index)
        patients |= set(both.loc[known, "patient_own"].dropna())
    return held_out.index[held_out.index.isin(trained.index) | held_out.isin(patients)]


def _trained_on(origin: Origin, challenge_rows: ChallengeRows, run_dir: Path) -> pd.Series:
    """Return the patient (or NA) of every image that `origin` was trained on; index image_id.

    Holdout rows are excluded, unless the weights have been replaced: then they are unknown.
    """
    frame = challenge_rows.folds.frame
    fold = origin.fold
    rows = frame["patient"] if fold == REFIT else frame.loc[frame["fold"] != int(fold), "patient"]
    directory = fold_dir(run_dir, fold)
    holdout, weights = directory / HOLDOUT, directory / WEIGHTS
    if holdout.is_file() and weights.is_file() and digest_of_weights(weights) == origin.weights:
        rows = rows.drop(pd.read_csv(holdout, dtype=str, keep_default_na=False)["image_id"], errors="ignore")
    return rows


def _leakage_message(job: FoldJob, origin: Origin, leaked: pd.Index) -> str:
    holdout = job.data.holdout.index
    fix = (
        f"Train {origin.run} with the same data.holdout_share and --seed, to get the same holdout rows"
        if len(holdout) and leaked.isin(holdout).all()
        else f"Train {origin.run} on folds without these images"
    )
    return (
        f"model.init_from: leakage: {origin.run} fold {origin.fold} was trained on {len(leaked):,} images "
        f"that fold {job.run.fold} of {job.run.name} must not have seen, or on other images of their "
        f"patients: {listing(leaked)}. {fix}, or start from another run."
    )
