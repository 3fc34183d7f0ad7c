"""Check an existing run: it must be the same run, with the same data."""

from collections.abc import Sequence

from cxrlt.artifacts import write_artifact
from cxrlt.errors import UserError, listing
from cxrlt.folds.rows import TrainRows
from cxrlt.provenance import describe_differences, is_current, select_parts
from cxrlt.recipe import differing_fields_affecting, load_recipe, save_recipe
from cxrlt.system.locks import lock_folder
from cxrlt.training.checkpoint import list_checkpoints
from cxrlt.training.job import FoldJob, create_run_record
from cxrlt.training.record import DATA_PARTS, data_changes, read_run_record
from cxrlt.training.run_paths import CONFIG, RUN, WEIGHTS, train_run_command


def require_same_run(job: FoldJob, rows: TrainRows) -> None:
    """Raises UserError with the differences if the fold's folder holds another run.

    A run differs by its challenge, name, fold, seed, split, or by a recipe field that changes weights. It is
    also an error if its initial weights come from a run that has been trained again, or if the file that this
    or another fold started from was replaced.
    """
    _require_same_file(job)
    if not (job.run_dir / RUN).is_file():
        return
    record, now = read_run_record(job.run_dir, job.challenge.name), create_run_record(job)
    differing = [
        f"{key}: {getattr(record, key)} -> {getattr(now, key)}"
        for key in ("challenge", "name", "seed")
        if getattr(record, key) != getattr(now, key)
    ]
    if not rows.folds.was_training_split(record.provenance, job.run.fold):
        differing.append("another split into folds")
    if record.provenance.get("classes") != now.provenance["classes"]:
        differing.append("other classes")
    differing += differing_fields_affecting(load_recipe(None, job.run_dir / CONFIG), job.recipe, "weights")
    if differing:
        raise UserError(
            f"{job.run_dir} already holds another run ({'; '.join(differing)}). "
            "Choose another --name for this run, or use --force to replace the old one."
        )
    origin = now.started_from
    if origin and record.provenance.get("start") != origin.weights:
        raise UserError(
            f"{job.run_dir} started from weights of {origin.run} fold {origin.fold} that have been replaced. "
            "Train it again with --force, or choose another --name to start from the new weights."
        )


def _require_same_file(job: FoldJob) -> None:
    now = job.run.initial_weights.sha256
    for path in sorted(job.run_dir.parent.glob(f"*/{RUN}")) if now else []:
        if not (path.parent / WEIGHTS).is_file() and not list_checkpoints(path.parent):
            continue  # not one update was made, for example because the file did not fit
        before = read_run_record(path.parent, job.challenge.name).initial_weights.sha256
        if before not in (now, None):
            raise UserError(
                f"{path.parent} started from another file of weights (SHA-256 {before}) than fold "
                f"{job.run.fold} would now ({now}). Restore that file, train all folds with --force, or "
                "choose another --name."
            )


def require_same_data(jobs: Sequence[FoldJob], rows: TrainRows, *, keep: bool, write: bool) -> None:
    """Raises UserError for folds whose data have changed since their training, or since its start.

    With `keep`, finished folds are kept, and this is noted in run.json if `write`. An unfinished training can
    only continue with the data it started with.
    """
    begun: dict[str, list[str]] = {}
    finished: dict[str, list[str]] = {}
    for job in jobs:
        if not (job.run_dir / RUN).is_file():
            continue
        record = read_run_record(job.run_dir, job.challenge.name)
        changes = data_changes(record, job.run.provenance, rows)
        if not changes:
            continue
        words, data = describe_differences(changes), select_parts(DATA_PARTS, job.run.provenance)
        kept = bool(record.kept) and is_current(record.kept, data)
        if not job.is_finished:
            if list_checkpoints(job.run_dir) or any(job.run_dir.glob("stage*")):
                begun.setdefault(words, []).append(job.run.fold)
        elif not keep and not kept:
            finished.setdefault(words, []).append(job.run.fold)
        elif write:
            label = f"train {job.run.name} fold {job.run.fold}"
            print(f"{label}: the data have changed since training ({words}); keeping the weights")
            if not kept:
                with lock_folder(job.run_dir):
                    write_artifact(job.run_dir / RUN, record.model_copy(update={"kept": data}))
    if begun:
        raise UserError(
            f"the data have changed since the training of {jobs[0].run.name} started: "
            f"{_describe_by_fold(begun)}. Restore the former data to continue, or start again with --force."
        )
    if finished:
        command = train_run_command(jobs[0].run_dir.parent, jobs[0].challenge.name)
        raise UserError(
            f"the data have changed since {jobs[0].run.name} was trained: {_describe_by_fold(finished)}. "
            f"Train it again with: {command} --force; or keep it with: {command} --keep-trained"
        )


def _describe_by_fold(found: dict[str, list[str]]) -> str:
    """Return a text such as 'other labels (Mass) (folds 0, 1)'."""
    return " and ".join(
        f"{words} (fold{'s' * (len(folds) > 1)} {listing(folds)})" for words, folds in found.items()
    )


def update_saved_recipe(job: FoldJob) -> None:
    """Update the recipe fields of a finished fold that do not change weights; predictions use them."""
    saved = load_recipe(None, job.run_dir / CONFIG)
    if changed := "; ".join(differing_fields_affecting(saved, job.recipe, "logits", "scores")):
        print(f"train {job.run.name} fold {job.run.fold}: {changed} (the weights do not change)")
        with lock_folder(job.run_dir):
            save_recipe(job.recipe, job.run_dir / CONFIG)
