"""Runs that predict otherwise with the reference's weights: folders with links to its files."""

import shutil
from pathlib import Path

from cxrlt.artifacts import write_model
from cxrlt.experiments.experiment import Experiment, Run
from cxrlt.predictions.standardise import CONSTANTS
from cxrlt.provenance import digest_of_weights
from cxrlt.recipe import load_recipe, save_recipe
from cxrlt.training.record import read_run
from cxrlt.training.run_paths import CONFIG, RUN, WEIGHTS

PREDICTIONS = ("oof.parquet", CONSTANTS)
DESCRIPTION = ("environment.json", "card.json", "log.csv")


def derive(experiment: Experiment, reference: Run, run: Run) -> None:
    """Make `run`'s folds of those of `reference`, which are predicted.

    Where the two differ only in what is done with predictions, those are the reference's too.
    """
    shared = run.recipe.predict.tta == reference.recipe.predict.tta
    for fold in experiment.folds:
        origin, directory = experiment.fold_dir(reference, fold), experiment.fold_dir(run, fold)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for name in [WEIGHTS, *DESCRIPTION, *(PREDICTIONS if shared else ())]:
            _link(origin / name, directory / name)
        save_recipe(run.recipe, directory / CONFIG)
        record = read_run(origin, experiment.challenge.name)
        # last: its presence says the others are whole
        write_model(directory / RUN, record.model_copy(update={"name": run.name}))


def is_derived(experiment: Experiment, reference: Run, run: Run) -> bool:
    """Whether `run`'s folds are there, of the reference's weights as they are now and the same recipe."""
    for fold in experiment.folds:
        origin, directory = experiment.fold_dir(reference, fold), experiment.fold_dir(run, fold)
        if not all((directory / name).is_file() for name in (RUN, WEIGHTS)):
            return False
        if load_recipe(None, directory / CONFIG) != run.recipe:
            return False
        if digest_of_weights(directory / WEIGHTS) != digest_of_weights(origin / WEIGHTS):
            return False
    return True


def _link(origin: Path, path: Path) -> None:
    try:
        path.hardlink_to(origin)
    except OSError:  # a file system without links
        shutil.copy2(origin, path)
