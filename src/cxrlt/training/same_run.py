"""A run that exists already: whether it is the same one, and what happens if its data have changed."""

from collections.abc import Sequence

from cxrlt.artifacts import write_model
from cxrlt.errors import UserError, listing
from cxrlt.folds.rows import TrainRows
from cxrlt.provenance import in_words, is_current, only
from cxrlt.recipe import differing_fields_affecting, load_recipe, save_recipe
from cxrlt.system.locks import exclusive
from cxrlt.training.checkpoint import checkpoints
from cxrlt.training.job import FoldJob, record_of
from cxrlt.training.record import DATA, changes_in_data, read_run
from cxrlt.training.run_paths import CONFIG, RUN, train_run_command


def require_same_run(job: FoldJob, rows: TrainRows) -> None:
    """Raises UserError, listing what differs, if the fold's folder holds another run.

    That is another challenge, name, fold, seed or split, or a recipe that differs in a field that changes
    weights; or if what the run started from has been trained again since.
    """
    if not (job.run_dir / RUN).is_file():
        return
    record, now = read_run(job.run_dir, job.challenge.name), record_of(job)
    differing = [
        f"{key}: {getattr(record, key)} -> {getattr(now, key)}"
        for key in ("challenge", "name", "seed")
        if getattr(record, key) != getattr(now, key)
    ]
    if not rows.folds.has_trained(record.made_of, job.run.fold):
        differing.append("another split into folds")
    if record.made_of.get("classes") != now.made_of["classes"]:
        differing.append("other classes")
    differing += differing_fields_affecting(load_recipe(None, job.run_dir / CONFIG), job.recipe, "weights")
    if differing:
        raise UserError(
            f"{job.run_dir} already holds another run ({'; '.join(differing)}). "
            "Give this one a --name of its own, or use --force to train in the place of the old one."
        )
    origin = now.started_from
    if origin and record.made_of.get("start") != origin.weights:
        raise UserError(
            f"{job.run_dir} started from weights of {origin.run} fold {origin.fold} that have been "
            "replaced since. Train it again with --force, or from the new ones under a --name of its own."
        )


def require_same_data(jobs: Sequence[FoldJob], rows: TrainRows, *, keep: bool, write: bool) -> None:
    """Raises UserError for folds that were trained, or begun, on other data than there are now.

    Finished ones stay as they are if the user says so (`keep`), which is noted in run.json. A training that
    was begun goes on with the data it began with, or not at all.
    """
    begun: dict[str, list[str]] = {}
    finished: dict[str, list[str]] = {}
    for job in jobs:
        if not (job.run_dir / RUN).is_file():
            continue
        record = read_run(job.run_dir, job.challenge.name)
        changes = changes_in_data(record, job.run.made_of, rows)
        if not changes:
            continue
        words, data = in_words(changes), only(DATA, job.run.made_of)
        kept = bool(record.kept) and is_current(record.kept, data)
        if not job.finished:
            if checkpoints(job.run_dir) or any(job.run_dir.glob("stage*")):
                begun.setdefault(words, []).append(job.run.fold)
        elif not keep and not kept:
            finished.setdefault(words, []).append(job.run.fold)
        elif write:
            label = f"train {job.run.name} fold {job.run.fold}"
            print(f"{label}: trained on {words} than there are now, and kept")
            if not kept:
                with exclusive(job.run_dir):
                    write_model(job.run_dir / RUN, record.model_copy(update={"kept": data}))
    if begun:
        raise UserError(
            f"{jobs[0].run.name} was begun on {_by_folds(begun)} than there are now, and one training does "
            "not mix them. Put the former data back, or start again with --force."
        )
    if finished:
        command = train_run_command(jobs[0].run_dir.parent, jobs[0].challenge.name)
        raise UserError(
            f"{jobs[0].run.name} was trained on {_by_folds(finished)} than there are now. Train it again "
            f"with: {command} --force; or go on with it as it is: {command} --keep-trained"
        )


def _by_folds(found: dict[str, list[str]]) -> str:
    """'other labels (Mass) (folds 0, 1)'."""
    return " and ".join(
        f"{words} (fold{'s' * (len(folds) > 1)} {listing(folds)})" for words, folds in found.items()
    )


def update_recipe(job: FoldJob) -> None:
    """Put the fields that change no weights into a finished fold's config.yaml; predictions follow them."""
    before = load_recipe(None, job.run_dir / CONFIG)
    if changed := "; ".join(differing_fields_affecting(before, job.recipe, "logits", "scores")):
        print(f"train {job.run.name} fold {job.run.fold}: {changed} (the weights stay as they are)")
        with exclusive(job.run_dir):
            save_recipe(job.recipe, job.run_dir / CONFIG)
