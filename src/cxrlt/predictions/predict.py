"""The stage `cxrlt predict`: out-of-fold, dev and test logits of every trained fold, by one function."""

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import load_file

import cxrlt
from cxrlt.artifacts import read_json
from cxrlt.errors import UserError
from cxrlt.folds.make import Folds, read_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.models.backbone import XRayModel, create_model
from cxrlt.predictions.store import read_predictions, write_predictions
from cxrlt.recipe import Recipe, load_recipe
from cxrlt.training.infer import infer
from cxrlt.training.job import REFIT, WEIGHTS
from cxrlt.training.setup import create_accelerator, worker_count

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


def predict(source: ImageSource, name: str, split: str, *, force: bool = False) -> list[Path]:
    """Write `split`.parquet into every trained fold of the run `name`; "oof" means the rows a fold left out.

    Finished files are left alone unless `force`. Raises UserError if nothing is trained under that name.
    """
    challenge = source.challenge
    folds = read_folds(challenge, source.workspace)
    trained = trained_folds(source.workspace.run_dir(challenge.name, name), folds, challenge.name)
    if split == "oof":
        trained = [unit for unit in trained if unit.fold != REFIT]
    else:
        challenge.require(split)
    accelerator = create_accelerator(trained[0].recipe) if trained else Accelerator()
    return [_predict_fold(source, unit, split, folds, accelerator, force) for unit in trained]


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
                f"Train it anew: cxrlt train RECIPE --name {run_dir.name} --challenge {challenge} --force"
            )
        found.append(TrainedFold(directory, load_recipe(None, directory / "config.yaml"), identity))
    if not found:
        raise UserError(
            f"Nothing is trained under the name {run_dir.name!r} for {challenge}. "
            f"Train it with: cxrlt train {run_dir.name} --challenge {challenge}"
        )
    return sorted(found, key=lambda unit: (unit.fold == REFIT, len(unit.fold), unit.fold))


def load_model(unit: TrainedFold, n_classes: int) -> XRayModel:
    """The trained model of one fold."""
    cfg = unit.recipe.model.model_copy(update={"pretrained": False})
    model = create_model(cfg, n_classes, unit.recipe.data.size)
    model.load_state_dict(load_file(unit.directory / WEIGHTS))
    return model


def flips(recipe: Recipe, classes: tuple[str, ...]) -> bool:
    """Whether to average over the mirror image: if the recipe says so and training mirrored too.

    Raises UserError if a class has a side, which a mirror image exchanges.
    """
    sided = [name for name in classes if any(side in name.lower().split() for side in SIDED)]
    wanted = recipe.predict.tta and recipe.data.augment.flip
    if wanted and sided:
        raise UserError(
            f"Classes {', '.join(sided)} have a side, which a mirror image exchanges: "
            "train with --data.augment.flip False."
        )
    return wanted


def _predict_fold(
    source: ImageSource, unit: TrainedFold, split: str, folds: Folds, accelerator: Accelerator, force: bool
) -> Path:
    challenge, recipe = source.challenge, unit.recipe
    path = unit.directory / f"{split}.parquet"
    label = f"predict {unit.identity['name']} fold {unit.fold} {split}"
    if split == "oof":
        table, cache = source.folded(folds.frame.index, recipe.data.size)
        expected = folds.frame.index[folds.frame["fold"] == int(unit.fold)]
    else:
        table, cache = source.split(split, recipe.data.size)
        expected = table.index
    if (
        path.is_file()
        and not force
        and set(read_predictions(path, challenge.classes)[0].index) == set(expected)
    ):
        accelerator.print(f"{label}: already done ({path})")
        return path
    flip = flips(recipe, challenge.classes)
    logits = infer(
        load_model(unit, len(challenge.classes)).to(accelerator.device),
        cache,
        list(table.index.intersection(expected, sort=False)),
        challenge.classes,
        accelerator,
        batch_size=recipe.optim.max_batch_per_device,
        n_workers=worker_count(recipe.data.n_workers, accelerator),
        flip=flip,
        label=label,
    )
    if accelerator.is_main_process:
        meta = _meta(unit, split, folds, flip)
        write_predictions(path, logits.reindex(expected), meta)  # an unreadable image stays NaN
        print(f"{label}: {len(logits):,} images")
    accelerator.wait_for_everyone()
    return path


def _meta(unit: TrainedFold, split: str, folds: Folds, flip: bool) -> dict[str, str]:
    return {
        "challenge": str(unit.identity["challenge"]),
        "name": str(unit.identity["name"]),
        "fold": unit.fold,
        "seed": str(unit.identity["seed"]),
        "split": split,
        "tta": "flip" if flip else "none",
        "epoch": unit.recipe.predict.weights,
        "folds_sha256": folds.sha256,
        "version": cxrlt.__version__,
    }
