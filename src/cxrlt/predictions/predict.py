"""The stage `cxrlt predict`: out-of-fold, dev and test logits of every trained fold, by one function."""

import gc
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from accelerate import Accelerator
from safetensors.torch import load_file

import cxrlt
from cxrlt.artifacts import name_of_run, read_json
from cxrlt.challenges.base import Challenge
from cxrlt.errors import UserError
from cxrlt.folds.make import Folds, read_folds
from cxrlt.inputs.cache import ImageCache
from cxrlt.inputs.images import ImageSource
from cxrlt.inputs.memory import give_back_memory
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.predictions.ensemble import predict_ensemble
from cxrlt.predictions.standardise import CONSTANTS, write_constants
from cxrlt.predictions.store import read_predictions, write_predictions
from cxrlt.predictions.weights import is_ensemble, read_weights
from cxrlt.recipe import Recipe, TTAConfig, load_recipe
from cxrlt.training.data import Stored, evaluation_set, rows_per_pass
from cxrlt.training.features import feature_cache
from cxrlt.training.infer import infer
from cxrlt.training.places import REFIT, WEIGHTS, train_run_command
from cxrlt.training.setup import create_accelerator, worker_count
from cxrlt.training.tta import describe_tta, only_as_they_are

SIDED = ("left", "right")


@dataclass(frozen=True)
class TrainedFold:
    """A finished fold, or a refit on all rows, as its folder describes it."""

    directory: Path
    recipe: Recipe
    identity: dict[str, object]

    @property
    def fold(self) -> str:
        return str(self.identity["fold"])


def predict_run(source: ImageSource, name: str, split: str, *, force: bool = False) -> list[Path]:
    """As `predict`, for an ensemble too: its members first, then what its weights.json makes of them."""
    challenge, run_dir = source.challenge, source.workspace.run_dir(source.challenge.name, name)
    if not is_ensemble(run_dir):
        return predict(source, name, split, force=force)
    for member in read_weights(run_dir, challenge).members:
        predict_run(source, member, split, force=force)
    path = predict_ensemble(challenge, source.workspace, name, split)
    print(f"predict {name} {split}: {path}")
    return [path]


def predict(source: ImageSource, name: str, split: str, *, force: bool = False) -> list[Path]:
    """Write `split`.parquet into every trained fold of a run; "oof" means the rows a fold left out.

    Finished files are left alone unless `force`. Raises UserError if nothing is trained under that name.
    """
    challenge = source.challenge
    gc.collect()  # the training that came before
    give_back_memory()
    folds = read_folds(challenge, source.workspace)
    trained = trained_folds(source.workspace.run_dir(challenge.name, name), folds, challenge.name)
    if split == "oof":
        trained = [unit for unit in trained if unit.fold != REFIT]
        if not trained:
            raise UserError(f"{name} was fitted on all rows (--refit), so it has no out-of-fold predictions.")
        table, cache = source.folded(folds.frame.index, trained[0].recipe.data.cache_size)
    else:
        challenge.require(split)
        table, cache = source.split(split, trained[0].recipe.data.cache_size)
    accelerator = create_accelerator(trained[0].recipe)
    paths = []
    for unit in trained:
        path = unit.directory / f"{split}.parquet"
        label = f"predict {name} fold {unit.fold} {split}"
        expected = folds.frame.index[folds.frame["fold"] == int(unit.fold)] if split == "oof" else table.index
        if not force and _is_finished(path, split, challenge.classes, expected):
            accelerator.print(f"{label}: already done ({path})")
        else:
            rows = table[table.index.isin(expected)]
            tta = tta_of(unit.recipe, challenge.classes)
            give_back_memory()
            logits = infer_fold(unit, cache, rows, challenge, accelerator, tta, label)
            if accelerator.is_main_process:
                if split == "oof":
                    write_constants(unit.directory, logits, challenge.task)
                # an unreadable image stays NaN
                write_predictions(path, logits.reindex(expected), _meta(unit, split, folds, tta))
                print(f"{label}: {len(logits):,} images")
            accelerator.wait_for_everyone()
        paths.append(path)
    return paths


def trained_folds(run_dir: Path, folds: Folds, challenge: str) -> list[TrainedFold]:
    """The finished folds of a run, in order.

    Raises UserError if there are none, or if they were trained on another split.
    """
    found = []
    for directory in sorted([*run_dir.glob("fold[0-9]*"), *run_dir.glob(REFIT)]):
        if not (directory / WEIGHTS).is_file():
            continue
        identity = read_json(directory / "run.json", made_by=f"cxrlt train --challenge {challenge} --force")
        if identity["folds_sha256"] != folds.sha256:
            raise UserError(
                f"{directory} was trained on another split than the folds.csv there is now. "
                f"Train it anew: {train_run_command(run_dir, challenge)} --force"
            )
        found.append(TrainedFold(directory, load_recipe(None, directory / "config.yaml"), identity))
    if not found:
        raise UserError(
            f"Nothing is trained under the name {name_of_run(run_dir, challenge)!r} for {challenge}. "
            f"Train it with: {train_run_command(run_dir, challenge)}"
        )
    return sorted(found, key=lambda unit: (unit.fold == REFIT, len(unit.fold), unit.fold))


def load_model(unit: TrainedFold, n_classes: int, channels: int = 1) -> XRayModel:
    """The trained model of one fold."""
    cfg = unit.recipe.model.model_copy(update={"pretrained": False})
    model = create_model(cfg, n_classes, unit.recipe.data.size, channels)
    model.load_state_dict(load_file(unit.directory / WEIGHTS))
    return model


def flips(recipe: Recipe, classes: tuple[str, ...]) -> bool:
    """Whether to predict mirror images too: if the recipe says so and training mirrored, as none frozen does.

    Raises UserError if a class has a side, which a mirror image exchanges.
    """
    sided = [name for name in classes if any(side in name.lower().split() for side in SIDED)]
    wanted = recipe.predict.tta.flip and recipe.data.augment.flip and not recipe.model.frozen
    if wanted and sided:
        raise UserError(
            f"Classes {', '.join(sided)} have a side, which a mirror image exchanges: "
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
    """
    recipe, n_workers = unit.recipe, worker_count(unit.recipe.data.n_workers, accelerator)
    model = load_model(unit, len(challenge.classes), challenge.channels).to(accelerator.device)
    stored: Stored = cache
    if recipe.model.frozen and only_as_they_are(tta):
        stored = feature_cache(model, recipe, cache, accelerator, n_workers)
    return infer(
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


def _is_finished(path: Path, split: str, classes: tuple[str, ...], expected: pd.Index) -> bool:
    """Whether the file holds just these rows (images may have come since) and its constants are there."""
    if not path.is_file() or (split == "oof" and not (path.parent / CONSTANTS).is_file()):
        return False
    return set(read_predictions(path, classes)[0].index) == set(expected)


def _meta(unit: TrainedFold, split: str, folds: Folds, tta: TTAConfig) -> dict[str, str]:
    return {
        "challenge": str(unit.identity["challenge"]),
        "name": str(unit.identity["name"]),
        "fold": unit.fold,
        "seed": str(unit.identity["seed"]),
        "split": split,
        "tta": describe_tta(tta),
        "epoch": unit.recipe.predict.weights,
        "folds_sha256": folds.sha256,
        "version": cxrlt.__version__,
    }
