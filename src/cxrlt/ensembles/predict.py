"""The stage `cxrlt predict`, for models and ensembles alike."""

from pathlib import Path

from cxrlt.ensembles.ensemble import predict_ensemble
from cxrlt.ensembles.weights import read_weights
from cxrlt.errors import UserError
from cxrlt.inputs.images import ImageSource
from cxrlt.predictions.predict import predict
from cxrlt.predictions.run_names import is_ensemble, require_run


def predict_run(source: ImageSource, name: str, split: str, *, force: bool = False) -> list[Path]:
    """As `predict`, for an ensemble too: its members first, then what its weights.json makes of them."""
    require_run(source.challenge, source.workspace, name)
    models = models_of(source, name)
    if models == (name,):
        return predict(source, name, split, force=force)
    if split == "train_set":
        raise UserError(f"--split train_set is of single models, and {name} is an ensemble: name a member.")
    for member in models:
        predict(source, member, split, force=force)
    path = predict_ensemble(source.challenge, source.workspace, name, split, force=force)
    print(f"predict {name} {split}: {path}")
    return [path]


def models_of(source: ImageSource, name: str) -> tuple[str, ...]:
    """The members of an ensemble; a model is its own."""
    run_dir = source.workspace.run_dir(source.challenge.name, name)
    return read_weights(run_dir, source.challenge).members if is_ensemble(run_dir) else (name,)
