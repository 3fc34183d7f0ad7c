"""Runs that predict with the reference's weights but other settings: folders with links to its files."""

import shutil
from pathlib import Path

from cxrlt.artifacts import write_artifact
from cxrlt.experiments.experiment import Experiment, Run
from cxrlt.predictions.standardise import CONSTANTS
from cxrlt.provenance import digest_of_weights
from cxrlt.recipe import load_recipe, save_recipe
from cxrlt.training.record import read_run_record
from cxrlt.training.run_paths import CARD, CONFIG, LOG, RUN, WEIGHTS

PREDICTION_FILES = ("oof.parquet", CONSTANTS)
METADATA_FILES = ("environment.json", CARD, LOG)


def create_linked_run(experiment: Experiment, reference: Run, run: Run) -> None:
    """Create the fold folders of `run` with links to the predicted folds of `reference`.

    The predictions are linked too, if both runs use the same test-time augmentation.
    """
    has_same_tta = run.recipe.predict.tta == reference.recipe.predict.tta
    for fold in experiment.folds:
        source_dir, directory = experiment.fold_dir(reference, fold), experiment.fold_dir(run, fold)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for name in [WEIGHTS, *METADATA_FILES, *(PREDICTION_FILES if has_same_tta else ())]:
            _link_or_copy(source_dir / name, directory / name)
        save_recipe(run.recipe, directory / CONFIG)
        record = read_run_record(source_dir, experiment.challenge.name)
        # written last: run.json marks a complete folder
        write_artifact(directory / RUN, record.model_copy(update={"name": run.name}))


def is_linked(experiment: Experiment, reference: Run, run: Run) -> bool:
    """Return whether all folds of `run` exist with the reference's current weights and the run's recipe."""
    for fold in experiment.folds:
        source_dir, directory = experiment.fold_dir(reference, fold), experiment.fold_dir(run, fold)
        if not all((directory / name).is_file() for name in (RUN, WEIGHTS)):
            return False
        if load_recipe(None, directory / CONFIG) != run.recipe:
            return False
        if digest_of_weights(directory / WEIGHTS) != digest_of_weights(source_dir / WEIGHTS):
            return False
    return True


def _link_or_copy(source: Path, path: Path) -> None:
    try:
        path.hardlink_to(source)
    except OSError:  # the file system has no hard links
        shutil.copy2(source, path)
