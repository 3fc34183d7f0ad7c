"""The stage `cxrlt predict`: out-of-fold, dev and test logits of every trained fold, by one function."""

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
from cxrlt.inputs.images import ImageSource, give_back_memory
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.predictions.present import TRAIN_ROWS, Present
from cxrlt.predictions.standardise import read_constants, write_constants
from cxrlt.predictions.store import MADE_BY, PredictionsMeta, open_predictions, write_predictions
from cxrlt.predictions.trained import TrainedFold, recipe_of, require_classes, trained_folds
from cxrlt.provenance import MadeOf, digest, in_words
from cxrlt.recipe import Recipe, TTAConfig
from cxrlt.system.locks import exclusive
from cxrlt.training.checkpoint import read_tensors
from cxrlt.training.data import InputCache, evaluation_set, rows_per_pass
from cxrlt.training.features import feature_cache
from cxrlt.training.infer import infer
from cxrlt.training.run_paths import CONFIG, WEIGHTS, fold_of
from cxrlt.training.setup import create_accelerator, worker_count
from cxrlt.training.tta import describe_tta, only_as_they_are

SIDED = ("left", "right")


def predict(
    source: ImageSource,
    name: str,
    split: str,
    *,
    only: Collection[int] | None = None,
    force: bool = False,
) -> list[Path]:
    """Write `split`.parquet into every trained fold of a run; of oof and train_set the `rows_to_predict`.

    With `only`, into those folds. What is there is left alone if it was made of what there is now, unless
    `force`. Raises UserError if nothing is trained under that name, or another process is at work in a fold.
    """
    challenge, workspace = source.challenge, source.workspace
    gc.collect()  # the training that came before
    give_back_memory()
    present = Present(challenge, workspace)
    run_dir = workspace.run_dir(challenge.name, name)
    trained = trained_folds(run_dir, present.folds, challenge.name, only)
    if split in TRAIN_ROWS:
        trained = [unit for unit in trained if unit.fold != REFIT]
        if not trained:
            raise UserError(f"{name} was fitted on all rows (--refit), so it has no out-of-fold predictions.")
        table, cache = source.folded(present.rows.table, trained[0].recipe.data.cache_size)
    else:
        challenge.require(split)
        table, cache = source.split(split, trained[0].recipe.data.cache_size)
        ids = table.index
    accelerator = create_accelerator(trained[0].recipe)
    for note in present.rows.notes(challenge.name) if split == "oof" else []:
        accelerator.print(f"predict {name} oof: {note}")
    for unit in trained:
        rows = rows_to_predict(int(unit.fold), split, present) if split in TRAIN_ROWS else ids
        request = PredictRequest(name, split, rows, force)
        with exclusive(unit.directory) if accelerator.is_main_process else nullcontext():
            _predict_fold(unit, request, table, cache, present, accelerator)
    return [unit.directory / f"{split}.parquet" for unit in trained]


def rows_to_predict(fold: int, split: str, present: Present) -> pd.Index:
    """Training rows that a fold's model predicts: those left out, or of "train_set" some it was trained on.

    These are the rows that the next fold left out: as many, with the same share of every label, and over all
    folds the same.
    """
    rows, n_folds = present.rows.fold, present.folds.n_folds
    return rows.index[rows == ((fold + 1) % n_folds if split == "train_set" else fold)]


@dataclass(frozen=True)
class PredictRequest:
    """Which predictions are to be written: of the images `ids`, even if they are there where `force`."""

    name: str
    split: str
    ids: pd.Index
    force: bool


@dataclass(frozen=True)
class Behind:
    """What of a predictions file has to be computed: logits of the images `ids`; `kept` stay as they are.

    `reason` says why; None: it is as it would come out, and nothing is to be done.
    """

    ids: pd.Index
    kept: pd.DataFrame | None = None
    reason: str | None = None


def _predict_fold(
    unit: TrainedFold,
    request: PredictRequest,
    table: pd.DataFrame,
    cache: ImageCache,
    present: Present,
    accelerator: Accelerator,
) -> None:
    challenge = present.challenge
    path = unit.directory / f"{request.split}.parquet"
    label = f"predict {request.name} fold {unit.fold} {request.split}"
    behind = what_is_behind(path, request.split, request.ids, present)
    accelerator.wait_for_everyone()  # all have looked before one writes
    if behind.reason is None and not request.force:
        accelerator.print(f"{label}: already done ({path})")
        return
    if request.force:
        behind = Behind(request.ids)
    elif path.is_file():
        accelerator.print(f"{label}: again, for {behind.reason}")
    tta = tta_of(unit.recipe, challenge.classes)
    give_back_memory()
    logits = behind.kept
    if logits is None or len(behind.ids):
        wanted = table[table.index.isin(behind.ids)]
        found = infer_fold(unit, cache, wanted, challenge, accelerator, tta, label)
        logits = found if logits is None else pd.concat([logits, found])
    if accelerator.is_main_process:
        made_of = present.made_of_predictions(unit.directory, request.ids, request.split)
        logits = logits.reindex(request.ids)  # an unreadable image stays NaN
        if request.split == "oof":
            # a kill between the two files must not leave the old one beside new constants
            path.unlink(missing_ok=True)
            values = {"predictions": digest(logits.astype(np.float32))}
            write_constants(unit.directory, logits.dropna(), challenge.task, made_of | values)
        write_predictions(
            path, logits, _meta(unit, request.split, tta, made_of), present.pixel_numbers(request.split)
        )
        print(f"{label}: {len(logits):,} images")
    accelerator.wait_for_everyone()


def what_is_behind(path: Path, split: str, ids: pd.Index, present: Present) -> Behind:
    """What has to be computed for a predictions file to hold just the rows `ids` as they would come out now.

    The constants of an out-of-fold one lie beside it. Where only images have come, gone or changed, the
    others keep what they have; where the images of a study are seen together, all of it is computed.
    """
    whole = Behind(ids, reason=f"{path} is not there")
    now = present.made_of_predictions(path.parent, ids, split)
    if not path.is_file():
        return whole
    try:
        file = open_predictions(path)
        logits, found = file.logits(present.challenge.classes), [file.meta.made_of]
        if split == "oof":
            values = {"predictions": file.meta.values}
            found = [found[0] | values, read_constants(path.parent, present.challenge.classes, MADE_BY)[1]]
            now = now | values
    except UserError:
        return replace(whole, reason=f"{path} is damaged or not whole")
    fold = fold_of(path.parent)
    for before in found:
        if differing := present.differing(before, now, fold):
            return replace(whole, reason=f"{path} was made with {in_words(differing)}")
    new, gone = ids.difference(file.ids, sort=False), file.ids.difference(ids, sort=False)
    changed = present.changed_pixels(file.ids.intersection(ids, sort=False), file.pixels, split)
    reasons = [
        f"{len(which):,} images {what} ({listing(which)})"
        for which, what in ((new, "are new"), (gone, "are gone"), (changed, "have other pixels"))
        if len(which)
    ]
    if not reasons:
        return Behind(ids[:0])
    reason = " and ".join(reasons)
    if len(new) + len(changed) == len(ids) or recipe_of(path.parent, present.challenge.name).uses_fusion:
        return replace(whole, reason=reason)
    return Behind(new.append(changed), logits.drop(gone.append(changed)), reason)


def load_model(unit: TrainedFold, n_classes: int, channels: int = 1) -> XRayModel:
    """The trained model of one fold. Raises UserError if its weights are damaged or of another model."""
    cfg = unit.recipe.model.model_copy(update={"pretrained": False})
    model = create_model(cfg, n_classes, unit.recipe.data.size, channels)
    path, again = unit.directory / WEIGHTS, f"{unit.train_command} --force"
    try:
        model.load_state_dict(read_tensors(path, again))
    except RuntimeError as error:  # its way to say that keys or shapes differ
        raise UserError(
            f"{path} is not of the model in {CONFIG} beside it. Train it again: {again}"
        ) from error
    return model


def flips(recipe: Recipe, classes: tuple[str, ...]) -> bool:
    """Whether to predict mirror images too: if the recipe says so and training mirrored, as none frozen does.

    Raises UserError if a class has a side, which a mirror image exchanges.
    """
    sided = [name for name in classes if any(side in name.lower().split() for side in SIDED)]
    wanted = recipe.predict.tta.flip and recipe.data.augment.flip and not recipe.model.frozen
    if wanted and sided:
        raise UserError(
            f"Classes {listing(sided)} have a side, which a mirror image exchanges: "
            "train with --data.augment.flip False."
        )
    return wanted


def tta_of(recipe: Recipe, classes: tuple[str, ...]) -> TTAConfig:
    """The recipe's test-time augmentation, mirrored only where `flips` says so."""
    return recipe.predict.tta.model_copy(update={"flip": flips(recipe, classes)})


def infer_fold(
    unit: TrainedFold,
    cache: ImageCache,
    rows: pd.DataFrame,
    challenge: Challenge,
    accelerator: Accelerator,
    tta: TTAConfig,
    label: str,
) -> pd.DataFrame:
    """Logits of one trained fold for `rows` of a table (index as theirs, one column per class).

    A frozen backbone's features are computed once for all folds that have it, unless `tta` varies the images.
    Raises UserError if the fold was trained for other classes, or predicts something else than numbers.
    """
    require_classes(unit, challenge)
    classes = unit.record.classes  # in the order of the model's outputs
    recipe, n_workers = unit.recipe, worker_count(unit.recipe.data.n_workers, accelerator)
    model = load_model(unit, len(classes), challenge.channels).to(accelerator.device)
    stored: InputCache = cache
    if recipe.model.frozen and only_as_they_are(tta):
        stored = feature_cache(model, recipe, cache, accelerator, n_workers)
    logits = infer(
        model,
        evaluation_set(recipe, rows, classes, stored),
        list(rows.index),
        classes,
        accelerator,
        task=challenge.task,
        batch_size=rows_per_pass(recipe, stored),
        n_workers=n_workers,
        tta=tta,
        label=label,
    )
    logits = logits[list(challenge.classes)]
    broken = logits.index[~np.isfinite(logits).all(axis=1)]
    if len(broken):
        raise UserError(
            f"{unit.directory} predicts logits that are no numbers for {len(broken):,} of {len(logits):,} "
            f"images: {listing(broken)}. Train it again: {unit.train_command} --force"
        )
    return logits


def _meta(unit: TrainedFold, split: str, tta: TTAConfig, made_of: MadeOf) -> PredictionsMeta:
    return PredictionsMeta(
        challenge=unit.record.challenge,
        name=unit.record.name,
        fold=unit.fold,
        seed=str(unit.record.seed),
        split=split,
        tta=describe_tta(tta),
        epoch=unit.recipe.predict.weights,
        version=cxrlt.__version__,
        made_of=made_of,
    )
