"""The stage `cxrlt predict`: out-of-fold, dev and test logits of every trained fold, by one function."""

import gc
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator

import cxrlt
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError, listing
from cxrlt.folds.read import Folds, read_folds
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.memory import give_back_memory
from cxrlt.locks import exclusive
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.predictions.ensemble import predict_ensemble
from cxrlt.predictions.identity import identity_of, in_words
from cxrlt.predictions.standardise import read_constants, write_constants
from cxrlt.predictions.store import MADE_BY, read_predictions, write_predictions
from cxrlt.predictions.trained import CONFIG, TrainedFold, require_classes, trained_folds
from cxrlt.predictions.weights import is_ensemble, read_weights
from cxrlt.recipe import Recipe, TTAConfig
from cxrlt.training.checkpoint import read_tensors
from cxrlt.training.data import Stored, evaluation_set, rows_per_pass
from cxrlt.training.features import feature_cache
from cxrlt.training.infer import infer
from cxrlt.training.places import REFIT, WEIGHTS
from cxrlt.training.setup import create_accelerator, worker_count
from cxrlt.training.tta import describe_tta, only_as_they_are

SIDED = ("left", "right")


def predict_run(source: ImageSource, name: str, split: str, *, force: bool = False) -> list[Path]:
    """As `predict`, for an ensemble too: its members first, then what its weights.json makes of them."""
    models = models_of(source, name)
    if models == (name,):
        return predict(source, name, split, force=force)
    for member in models:
        predict(source, member, split, force=force)
    path = predict_ensemble(source.challenge, source.workspace, name, split, force=force)
    print(f"predict {name} {split}: {path}")
    return [path]


def models_of(source: ImageSource, name: str) -> tuple[str, ...]:
    """The members of an ensemble; a model is its own."""
    run_dir = source.workspace.run_dir(source.challenge.name, name)
    return read_weights(run_dir, source.challenge).members if is_ensemble(run_dir) else (name,)


def predict(
    source: ImageSource,
    name: str,
    split: str,
    *,
    only: Collection[int] | None = None,
    force: bool = False,
) -> list[Path]:
    """Write `split`.parquet into every trained fold of a run; "oof" means the rows a fold left out.

    With `only`, into those folds. What is there is left alone if it was made of what there is now, unless
    `force`. Raises UserError if nothing is trained under that name, or another process is at work in a fold.
    """
    challenge = source.challenge
    gc.collect()  # the training that came before
    give_back_memory()
    folds = read_folds(challenge, source.workspace)
    run_dir = source.workspace.run_dir(challenge.name, name)
    trained = trained_folds(run_dir, folds, challenge.name, only)
    if split == "oof":
        trained = [unit for unit in trained if unit.fold != REFIT]
        if not trained:
            raise UserError(f"{name} was fitted on all rows (--refit), so it has no out-of-fold predictions.")
        table, cache = source.folded(folds.frame.index, trained[0].recipe.data.cache_size)
    else:
        challenge.require(split)
        table, cache = source.split(split, trained[0].recipe.data.cache_size)
    accelerator = create_accelerator(trained[0].recipe)
    for unit in trained:
        rows = folds.frame.index[folds.frame["fold"] == int(unit.fold)] if split == "oof" else table.index
        asked = Asked(name, split, rows, force)
        with exclusive(unit.directory) if accelerator.is_main_process else nullcontext():
            _predict_fold(unit, asked, table, cache, challenge, folds, accelerator)
    return [unit.directory / f"{split}.parquet" for unit in trained]


@dataclass(frozen=True)
class Asked:
    """Which predictions are to be written: of the images `ids`, even if they are there where `force`."""

    name: str
    split: str
    ids: pd.Index
    force: bool


def _predict_fold(
    unit: TrainedFold,
    asked: Asked,
    table: pd.DataFrame,
    cache: ImageCache,
    challenge: Challenge,
    folds: Folds,
    accelerator: Accelerator,
) -> None:
    path = unit.directory / f"{asked.split}.parquet"
    label = f"predict {asked.name} fold {unit.fold} {asked.split}"
    made_of = identity_of(unit.directory, challenge, folds)
    reason = why_anew(path, challenge, made_of, asked.ids)
    if reason is None and not asked.force:
        accelerator.print(f"{label}: already done ({path})")
        return
    if reason and path.is_file():
        accelerator.print(f"{label}: anew, for {reason}")
    tta = tta_of(unit.recipe, challenge.classes)
    give_back_memory()
    logits = infer_fold(unit, cache, table[table.index.isin(asked.ids)], challenge, accelerator, tta, label)
    if accelerator.is_main_process:
        if asked.split == "oof":
            # a kill between the two files must not leave the old one beside new constants
            path.unlink(missing_ok=True)
            write_constants(unit.directory, logits, challenge.task, made_of)
        # an unreadable image stays NaN
        write_predictions(path, logits.reindex(asked.ids), _meta(unit, asked.split, tta) | made_of)
        print(f"{label}: {len(logits):,} images")
    accelerator.wait_for_everyone()


def why_anew(path: Path, challenge: Challenge, made_of: Mapping[str, str], ids: pd.Index) -> str | None:
    """Why a predictions file is to be written again; None if it would come out the same.

    It holds just the rows `ids` then (images may have come since), and the constants of an out-of-fold one
    lie beside it.
    """
    try:
        logits, meta = read_predictions(path, challenge.classes)
        found = [meta]
        if path.name == "oof.parquet":
            found.append(read_constants(path.parent, challenge.classes, MADE_BY)[1])
    except UserError:
        return f"{path} is damaged or not whole"
    if parts := [part for part in made_of if any(each.get(part) != made_of[part] for each in found)]:
        return f"{path} was made with {in_words(parts)}"
    return None if set(logits.index) == set(ids) else f"{path} holds other images than there are now"


def load_model(unit: TrainedFold, n_classes: int, channels: int = 1) -> XRayModel:
    """The trained model of one fold. Raises UserError if its weights are damaged or of another model."""
    cfg = unit.recipe.model.model_copy(update={"pretrained": False})
    model = create_model(cfg, n_classes, unit.recipe.data.size, channels)
    path, again = unit.directory / WEIGHTS, f"{unit.train_command} --force"
    try:
        model.load_state_dict(read_tensors(path, again))
    except RuntimeError as error:  # its way to say that keys or shapes differ
        raise UserError(
            f"{path} is not of the model in {CONFIG} beside it. Train it anew: {again}"
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
    recipe, n_workers = unit.recipe, worker_count(unit.recipe.data.n_workers, accelerator)
    model = load_model(unit, len(challenge.classes), challenge.channels).to(accelerator.device)
    stored: Stored = cache
    if recipe.model.frozen and only_as_they_are(tta):
        stored = feature_cache(model, recipe, cache, accelerator, n_workers)
    logits = infer(
        model,
        evaluation_set(recipe, rows, challenge.classes, stored),
        list(rows.index),
        challenge.classes,
        accelerator,
        task=challenge.task,
        batch_size=rows_per_pass(recipe, stored),
        n_workers=n_workers,
        tta=tta,
        label=label,
    )
    broken = logits.index[~np.isfinite(logits).all(axis=1)]
    if len(broken):
        raise UserError(
            f"{unit.directory} predicts logits that are no numbers for {len(broken):,} of {len(logits):,} "
            f"images: {listing(broken)}. Train it anew: {unit.train_command} --force"
        )
    return logits


def _meta(unit: TrainedFold, split: str, tta: TTAConfig) -> dict[str, str]:
    return {
        "challenge": str(unit.identity["challenge"]),
        "name": str(unit.identity["name"]),
        "fold": unit.fold,
        "seed": str(unit.identity["seed"]),
        "split": split,
        "tta": describe_tta(tta),
        "epoch": unit.recipe.predict.weights,
        "version": cxrlt.__version__,
    }
