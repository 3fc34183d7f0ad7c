"""The stage `cxrlt predict`: one function for the out-of-fold, dev and test logits of every trained fold."""

import gc
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator

import cxrlt
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import REFIT
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.images import ImageSource, release_memory
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.predictions.current_data import TRAIN_ROWS, CurrentData
from cxrlt.predictions.standardise import read_constants, write_constants
from cxrlt.predictions.store import PREDICT_COMMAND, PredictionsMeta, open_predictions, write_predictions
from cxrlt.predictions.trained_folds import TrainedFold, find_trained_folds, read_fold_recipe, require_classes
from cxrlt.provenance import Provenance, describe_differences, digest
from cxrlt.recipe import Recipe, TTAConfig
from cxrlt.system.locks import lock_folder
from cxrlt.training.checkpoint import read_tensors
from cxrlt.training.datasets import InputCache, create_eval_dataset, micro_batch_size
from cxrlt.training.features import create_feature_cache
from cxrlt.training.infer import infer
from cxrlt.training.run_paths import CONFIG, WEIGHTS, fold_from_dir
from cxrlt.training.setup import create_accelerator, resolve_n_workers
from cxrlt.training.tta import describe_tta, is_identity

SIDE_WORDS = ("left", "right")


def predict(
    source: ImageSource,
    name: str,
    split: str,
    *,
    only: Collection[int] | None = None,
    force: bool = False,
) -> list[Path]:
    """Write `split`.parquet into every trained fold of a run, or into the folds `only`; return the paths.

    For "oof" and "train_set" each fold predicts its `rows_to_predict`, for "dev" and "test" all rows.
    A current file is skipped, unless `force`. Raises UserError if the run has no trained fold, or if another
    process is working in a fold.
    """
    challenge, workspace = source.challenge, source.workspace
    gc.collect()  # frees what a training in this process left behind
    release_memory()
    current = CurrentData(challenge, workspace)
    run_dir = workspace.run_dir(challenge.name, name)
    trained = find_trained_folds(run_dir, current.folds, challenge.name, only)
    if split in TRAIN_ROWS:
        trained = [trained_fold for trained_fold in trained if trained_fold.fold != REFIT]
        if not trained:
            raise UserError(f"{name} was fitted on all rows (--refit), so it has no out-of-fold predictions.")
        table, cache = source.load_train_rows(current.rows.table, trained[0].recipe.data.cache_size)
    else:
        challenge.require_split(split)
        table, cache = source.load_split(split, trained[0].recipe.data.cache_size)
        ids = table.index
    accelerator = create_accelerator(trained[0].recipe)
    for note in current.rows.notes(challenge) if split == "oof" else []:
        accelerator.print(f"predict {name} oof: {note}")
    for trained_fold in trained:
        rows = rows_to_predict(int(trained_fold.fold), split, current) if split in TRAIN_ROWS else ids
        request = PredictRequest(name, split, rows, force)
        with lock_folder(trained_fold.directory) if accelerator.is_main_process else nullcontext():
            _predict_fold(trained_fold, request, table, cache, current, accelerator)
    return [trained_fold.directory / f"{split}.parquet" for trained_fold in trained]


def rows_to_predict(fold: int, split: str, current: CurrentData) -> pd.Index:
    """Ids of the training rows that a fold's model predicts.

    For "oof" these are the rows of the fold itself. For "train_set" these are the rows of the next fold,
    which the model was trained on: as many, with the same share of every label, and each row once over all
    folds.
    """
    rows, n_folds = current.rows.fold, current.folds.n_folds
    return rows.index[rows == ((fold + 1) % n_folds if split == "train_set" else fold)]


@dataclass(frozen=True)
class PredictRequest:
    """The predictions to write: images `ids` of `split`. `force` also replaces a current file."""

    name: str
    split: str
    ids: pd.Index
    force: bool


@dataclass(frozen=True)
class Pending:
    """What a predictions file still needs: logits of the images `ids`.

    `kept` are the logits that stay valid (index image_id, one column per class). `reason` says why the file
    needs an update; None if it is current.
    """

    ids: pd.Index
    kept: pd.DataFrame | None = None
    reason: str | None = None


def _predict_fold(
    trained_fold: TrainedFold,
    request: PredictRequest,
    table: pd.DataFrame,
    cache: ImageCache,
    current: CurrentData,
    accelerator: Accelerator,
) -> None:
    challenge = current.challenge
    path = trained_fold.directory / f"{request.split}.parquet"
    label = f"predict {request.name} fold {trained_fold.fold} {request.split}"
    pending = find_pending(path, request.split, request.ids, current)
    accelerator.wait_for_everyone()  # every process reads the file before one of them writes it
    if pending.reason is None and not request.force:
        accelerator.print(f"{label}: already done ({path})")
        return
    if request.force:
        pending = Pending(request.ids)
    elif path.is_file():
        accelerator.print(f"{label}: predicting again, as {pending.reason}")
    tta = effective_tta(trained_fold.recipe, challenge.classes)
    release_memory()
    logits = pending.kept
    if logits is None or len(pending.ids):
        wanted = table[table.index.isin(pending.ids)]
        found = infer_fold(trained_fold, cache, wanted, challenge, accelerator, tta, label)
        logits = found if logits is None else pd.concat([logits, found])
    if accelerator.is_main_process:
        provenance = current.predictions_provenance(trained_fold.directory, request.ids, request.split)
        logits = logits.reindex(request.ids)  # an unreadable image stays NaN
        if request.split == "oof":
            # a kill between the two writes must not leave old predictions with new constants
            path.unlink(missing_ok=True)
            values = {"predictions": digest(logits.astype(np.float32))}
            write_constants(trained_fold.directory, logits.dropna(), challenge.task, provenance | values)
        write_predictions(
            path,
            logits,
            _meta(trained_fold, request.split, tta, provenance),
            current.pixel_fingerprints(request.split),
        )
        print(f"{label}: {len(logits):,} images")
    accelerator.wait_for_everyone()


def find_pending(path: Path, split: str, ids: pd.Index, current: CurrentData) -> Pending:
    """Return what to compute so that the predictions file holds exactly the rows `ids` and is current.

    An out-of-fold file is current only if its constants.json is current too. If images were only added,
    removed or changed, the logits of the other images are kept. A model that fuses the images of a study
    predicts all rows again.
    """
    whole = Pending(ids, reason=f"{path} does not exist")
    now = current.predictions_provenance(path.parent, ids, split)
    if not path.is_file():
        return whole
    try:
        file = open_predictions(path)
        logits, found = file.logits(current.challenge.classes), [file.meta.provenance]
        if split == "oof":
            values = {"predictions": file.meta.values}
            found = [
                found[0] | values,
                read_constants(path.parent, current.challenge.classes, PREDICT_COMMAND)[1],
            ]
            now = now | values
    except UserError:
        return replace(whole, reason=f"{path} is damaged or incomplete")
    fold = fold_from_dir(path.parent)
    for before in found:
        if differing := current.find_differences(before, now, fold):
            return replace(whole, reason=f"{path} was made with {describe_differences(differing)}")
    new, removed = ids.difference(file.ids, sort=False), file.ids.difference(ids, sort=False)
    changed = current.changed_pixels(file.ids.intersection(ids, sort=False), file.pixels, split)
    reasons = [
        f"{len(which):,} images {what} ({listing(which)})"
        for which, what in ((new, "are new"), (removed, "were removed"), (changed, "have changed pixels"))
        if len(which)
    ]
    if not reasons:
        return Pending(ids[:0])
    reason = " and ".join(reasons)
    if (
        len(new) + len(changed) == len(ids)
        or read_fold_recipe(path.parent, current.challenge.name).uses_fusion
    ):
        return replace(whole, reason=reason)
    return Pending(new.append(changed), logits.drop(removed.append(changed)), reason)


def load_model(trained_fold: TrainedFold, n_classes: int, channels: int = 1) -> XRayModel:
    """Build the model of a fold and load its weights.

    Raises UserError if the weights file is damaged or belongs to another model.
    """
    recipe = trained_fold.recipe
    model = create_model(recipe.model, n_classes, recipe.data.size, channels, load_pretrained=False)
    path, again = trained_fold.directory / WEIGHTS, f"{trained_fold.train_command} --force"
    try:
        model.load_state_dict(read_tensors(path, again))
    except RuntimeError as error:  # PyTorch raises it if keys or shapes differ
        raise UserError(
            f"{path} does not fit the model in {CONFIG} of the same folder. Train it again: {again}"
        ) from error
    return model


def uses_flip(recipe: Recipe, classes: tuple[str, ...]) -> bool:
    """Return whether to predict mirrored images too.

    The recipe must ask for it, and training must have mirrored images, which frozen backbones never do.
    Raises UserError if a class name contains "left" or "right", because a mirror swaps the sides.
    """
    sided = [name for name in classes if any(side in name.lower().split() for side in SIDE_WORDS)]
    wanted = recipe.predict.tta.flip and recipe.data.augment.flip and not recipe.model.frozen
    if wanted and sided:
        raise UserError(
            f"Classes {listing(sided)} name a side, and a horizontal flip swaps left and right: "
            "train with --data.augment.flip False."
        )
    return wanted


def effective_tta(recipe: Recipe, classes: tuple[str, ...]) -> TTAConfig:
    """Return the recipe's test-time augmentation, with the flip switched off unless `uses_flip`."""
    return recipe.predict.tta.model_copy(update={"flip": uses_flip(recipe, classes)})


def infer_fold(
    trained_fold: TrainedFold,
    cache: ImageCache,
    rows: pd.DataFrame,
    challenge: Challenge,
    accelerator: Accelerator,
    tta: TTAConfig,
    label: str,
) -> pd.DataFrame:
    """Return the logits of one trained fold for `rows` of a table (same index, one column per class).

    The features of a frozen backbone are computed once for all folds, unless `tta` changes the images.
    Raises UserError if the fold was trained for other classes, or if a logit is NaN or infinite.
    """
    require_classes(trained_fold, challenge)
    classes = trained_fold.record.classes  # in the order of the model's outputs
    recipe, n_workers = (
        trained_fold.recipe,
        resolve_n_workers(trained_fold.recipe.data.n_workers, accelerator),
    )
    model = load_model(trained_fold, len(classes), challenge.channels).to(accelerator.device)
    stored: InputCache = cache
    if recipe.model.frozen and is_identity(tta):
        stored = create_feature_cache(model, recipe, cache, accelerator, n_workers)
    logits = infer(
        model,
        create_eval_dataset(recipe, rows, classes, stored),
        list(rows.index),
        classes,
        accelerator,
        task=challenge.task,
        batch_size=micro_batch_size(recipe, stored),
        n_workers=n_workers,
        tta=tta,
        label=label,
    )
    logits = logits[list(challenge.classes)]
    broken = logits.index[~np.isfinite(logits.to_numpy()).all(axis=1)]
    if len(broken):
        raise UserError(
            f"{trained_fold.directory} predicts NaN or infinite logits for {len(broken):,} of "
            f"{len(logits):,} images: {listing(broken)}. Train it again: {trained_fold.train_command} --force"
        )
    return logits


def _meta(trained_fold: TrainedFold, split: str, tta: TTAConfig, provenance: Provenance) -> PredictionsMeta:
    return PredictionsMeta(
        challenge=trained_fold.record.challenge,
        name=trained_fold.record.name,
        fold=trained_fold.fold,
        seed=str(trained_fold.record.seed),
        split=split,
        tta=describe_tta(tta),
        epoch=trained_fold.recipe.predict.weights,
        version=cxrlt.__version__,
        provenance=provenance,
    )
