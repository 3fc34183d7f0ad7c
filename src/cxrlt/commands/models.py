"""The commands for training and predictions: weights, train, predict, evaluate, ensemble, calibrate."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagConversionOff, Positional, arg

from cxrlt.calibration import Method
from cxrlt.commands.base import Command, ImageCommand
from cxrlt.errors import UserError
from cxrlt.recipe import Recipe, run_name


@dataclass(frozen=True, kw_only=True)
class Weights(Command):
    """List pretrained weights that fit a timm model, or check which model a file of weights fits."""

    action: Positional[Literal["list", "check"]] = "list"
    """list: the table that model.weights chooses from. check: read FILE and print what matches."""
    file: Positional[Path | None] = None
    """With check: a .safetensors or .pth file, or hf-hub:ORG/REPO/FILE@REVISION."""
    like: str | None = None
    """With check: a name of the table or of a timm model, whose tensors the file must have."""

    def run(self) -> None:
        """Run the command. Raises UserError for a wrong combination, and for a file that does not fit."""
        from cxrlt.recipe.known_weights import weights_table

        if self.action == "list" and self.file is self.like is None:
            return print(weights_table())
        if self.action == "list" or self.file is None:
            raise UserError("Give a file to check: cxrlt weights check FILE --like NAME.")
        from cxrlt.models.check_weights import check_weights

        print(check_weights(self.file, self.like))


@dataclass(frozen=True, kw_only=True)
class Train(ImageCommand):
    """Train a recipe on every fold, then predict the out-of-fold (OOF) rows.

    Every field of the recipe is a flag. To continue an interrupted run from its last checkpoint, run the same
    command again.
    """

    recipe: Positional[str | None] = None
    """Name of a recipe, or a YAML file with recipe fields. Must come first."""
    challenge: str = "demo"
    """Name of the challenge."""
    fold: tuple[int, ...] | None = None
    """Folds to train (default: all)."""
    refit: bool = False
    """Train one model on all rows instead of folds. It has no OOF predictions."""
    name: str | None = None
    """Name of the run (default: the name of the recipe, plus -refit for a refit)."""
    seed: int = 0
    """Random seed."""
    config: Path | None = None
    """A YAML file whose fields override those of the recipe. It may name a `base` recipe."""
    force: bool = False
    """Train finished folds again."""
    keep_trained: bool = False
    """Keep finished folds even if their training labels, pixels or rows changed. Noted in run.json."""
    fields: Annotated[FlagConversionOff[Recipe], arg(name="")] = field(default_factory=Recipe)

    def run(self) -> None:
        from accelerate import PartialState

        from cxrlt.predictions.predict import predict
        from cxrlt.predictions.run_names import require_init_from
        from cxrlt.training.plan import TrainPlan
        from cxrlt.training.timing import record_training_time
        from cxrlt.training.train import train

        name = self.name or run_name(self.recipe) + ("-refit" if self.refit else "")
        source = self.image_source(self.challenge)
        if (start := self.fields.model.init_from) and start != name:
            require_init_from(source.challenge, source.workspace, start)
        flags = {"force": self.force, "keep_trained": self.keep_trained}
        plan = TrainPlan(name, self.fields, self.fold, self.refit, self.seed, **flags)
        with record_training_time(
            source.workspace.run_dir(source.challenge.name, name), self.fold or (), self.force
        ):
            train(source, plan)
        if not self.refit:
            predict(source, name, "oof", only=self.fold)
        if self.force and PartialState().is_main_process:
            self.print_outdated(source.challenge, [name])


@dataclass(frozen=True, kw_only=True)
class Predict(ImageCommand):
    """Predict with every trained fold of a run, or with all members of an ensemble."""

    name: Positional[str]
    """A run or an ensemble."""
    challenge: str = "demo"
    """Name of the challenge."""
    split: Literal["oof", "train_set", "dev", "test"] = "test"
    """oof: rows that the fold's model was not trained on. train_set: as many that it was trained on."""
    force: bool = False
    """Predict finished splits again."""

    def run(self) -> None:
        from cxrlt.ensembles.ensemble import member_models, predict_run

        source = self.image_source(self.challenge)
        predict_run(source, self.name, self.split, force=self.force)
        if self.force:
            self.print_outdated(source.challenge, [self.name, *member_models(source, self.name)])


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Score one run or ensemble. Without a name: print the leaderboard of all trained runs and ensembles."""

    name: Positional[str | None] = None
    """A run or an ensemble."""
    challenge: str = "demo"
    """Name of the challenge."""
    split: Literal["oof", "dev", "test"] = "oof"
    """Predictions to score. dev and test need published labels."""
    partial: bool = False
    """Score a run on its finished folds only."""

    def run(self) -> None:
        from cxrlt.reports.score_table import leaderboard_table, score_table
        from cxrlt.submissions.evaluate import evaluate, leaderboard

        challenge = self.load_challenge(self.challenge)
        if self.name is None:
            print(leaderboard_table(leaderboard(challenge, self.workspace, self.split)))
        else:
            print(
                score_table(evaluate(challenge, self.workspace, self.name, self.split, partial=self.partial))
            )


@dataclass(frozen=True, kw_only=True)
class Ensemble(Command):
    """Combine runs into an ensemble, fitted on their OOF predictions."""

    name: Positional[str] = "ensemble"
    """Name of the ensemble. You evaluate and submit it like a run."""
    members: tuple[str, ...]
    """Names of finished runs."""
    challenge: str = "demo"
    """Name of the challenge."""
    kind: Literal["mean", "greedy", "per_class", "stack"] | None = None
    """Method (default: the simplest one that is not clearly worse than the best in cross-validation)."""
    context: bool = False
    """Stacking also gets the view, the number of images of the study and of the patient, and their scores."""
    study_mean: Literal["auto", "on", "off", "search"] = "auto"
    """Mean over the images of a study. auto: if it improves the OOF score. search: optimise view weights."""
    force: bool = False
    """Fit a finished ensemble again."""

    def run(self) -> None:
        from cxrlt.ensembles.ensemble import make_ensemble

        challenge = self.load_challenge(self.challenge)
        print(
            make_ensemble(
                challenge,
                self.workspace,
                self.name,
                self.members,
                kind=self.kind,
                context=self.context,
                study_mean=self.study_mean,
                force=self.force,
            )
        )
        if self.force:
            self.print_outdated(challenge, [self.name])


@dataclass(frozen=True, kw_only=True)
class Calibrate(Command):
    """Calibrate the probabilities of a run or ensemble on its OOF predictions."""

    name: Positional[str]
    """A run or an ensemble."""
    challenge: str = "demo"
    """Name of the challenge."""
    method: Method | None = None
    """Calibration method (default: the simplest one within noise of the best OOF log loss)."""
    partial: bool = False
    """Fit on the finished folds only."""

    def run(self) -> None:
        from cxrlt.calibration.calibrate import calibrate
        from cxrlt.reports.score_table import calibration_table

        challenge = self.load_challenge(self.challenge)
        report = calibrate(challenge, self.workspace, self.name, self.method, partial=self.partial)
        print(calibration_table(report))
