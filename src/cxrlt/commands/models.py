"""Training, and everything that predictions go through."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagConversionOff, Positional, arg

from cxrlt.calibration import Method
from cxrlt.commands.base import Folders, Images
from cxrlt.recipe import Recipe, run_name


@dataclass(frozen=True, kw_only=True)
class Train(Images):
    """Train a recipe's model on every fold, and predict the rows each fold leaves out.

    Any field of the recipe is a flag. An interrupted run goes on from its last checkpoint when started again.
    """

    recipe: Positional[str | None] = None
    """A recipe's name, or a YAML file with a recipe's fields; comes first."""
    challenge: str = "demo"
    fold: tuple[int, ...] | None = None
    """Which folds (default: every fold)."""
    refit: bool = False
    """One model on all rows instead of folds; it has no out-of-fold predictions."""
    name: str | None = None
    """Name of the run (default: the recipe's, with -refit behind it for a refit)."""
    seed: int = 0
    config: Path | None = None
    """A YAML file whose fields go before the recipe's; may name a `base`."""
    force: bool = False
    """Train again what is finished."""
    keep_trained: bool = False
    """Keep finished folds although labels, pixels or rows they were trained on have changed; noted in
    run.json.
    """
    fields: Annotated[FlagConversionOff[Recipe], arg(name="")] = field(default_factory=Recipe)

    def run(self) -> None:
        from accelerate import PartialState

        from cxrlt.predictions.predict import predict
        from cxrlt.predictions.run_names import require_start
        from cxrlt.training.timing import timed
        from cxrlt.training.train import TrainPlan, train

        name = self.name or run_name(self.recipe) + ("-refit" if self.refit else "")
        source = self.source(self.challenge)
        if (start := self.fields.model.init_from) and start != name:
            require_start(source.challenge, source.workspace, start)
        flags = {"force": self.force, "keep_trained": self.keep_trained}
        plan = TrainPlan(name, self.fields, self.fold, self.refit, self.seed, **flags)
        with timed(source.workspace.run_dir(source.challenge.name, name), self.fold or (), self.force):
            train(source, plan)
        if not self.refit:
            predict(source, name, "oof", only=self.fold)
        if self.force and PartialState().is_main_process:
            self.print_outdated(source.challenge, [name])


@dataclass(frozen=True, kw_only=True)
class Predict(Images):
    """Predict with every trained fold of a run, or with an ensemble's members."""

    name: Positional[str]
    """A run or an ensemble."""
    challenge: str = "demo"
    split: Literal["oof", "train_set", "dev", "test"] = "test"
    """oof: the training rows each fold left out; train_set: as many that it was trained on."""
    force: bool = False
    """Predict again what is finished."""

    def run(self) -> None:
        from cxrlt.ensembles.ensemble import models_of, predict_run

        source = self.source(self.challenge)
        predict_run(source, self.name, self.split, force=self.force)
        if self.force:
            self.print_outdated(source.challenge, [self.name, *models_of(source, self.name)])


@dataclass(frozen=True, kw_only=True)
class Evaluate(Folders):
    """Score one model or ensemble; without a name, the leaderboard of everything trained."""

    name: Positional[str | None] = None
    """A run or an ensemble."""
    challenge: str = "demo"
    split: Literal["oof", "dev", "test"] = "oof"
    """dev and test need published labels."""
    partial: bool = False
    """Score a model by the folds that are finished."""

    def run(self) -> None:
        from cxrlt.reports.score_table import leaderboard_table, score_table
        from cxrlt.submissions.evaluate import evaluate, leaderboard

        challenge = self.challenge_of(self.challenge)
        if self.name is None:
            print(leaderboard_table(leaderboard(challenge, self.workspace, self.split)))
        else:
            print(
                score_table(evaluate(challenge, self.workspace, self.name, self.split, partial=self.partial))
            )


@dataclass(frozen=True, kw_only=True)
class Ensemble(Folders):
    """Combine runs on the evidence of their out-of-fold predictions."""

    name: Positional[str] = "ensemble"
    """Name of the ensemble; it is evaluated and submitted like a run."""
    members: tuple[str, ...]
    """Names of finished runs."""
    challenge: str = "demo"
    kind: Literal["mean", "greedy", "per_class", "stack"] | None = None
    """How they are combined (default: the simplest kind that is not clearly behind the best)."""
    context: bool = False
    """Let stacking also see the view, how many images there are of study and patient, and their scores."""
    study_mean: Literal["auto", "on", "off", "search"] = "auto"
    """Average over studies; auto: if the out-of-fold score says so; search: with the best view weights."""
    force: bool = False
    """Fit again what is finished."""

    def run(self) -> None:
        from cxrlt.ensembles.ensemble import make_ensemble

        challenge = self.challenge_of(self.challenge)
        how = {"kind": self.kind, "context": self.context, "study_mean": self.study_mean}
        print(make_ensemble(challenge, self.workspace, self.name, self.members, **how, force=self.force))
        if self.force:
            self.print_outdated(challenge, [self.name])


@dataclass(frozen=True, kw_only=True)
class Calibrate(Folders):
    """Make a model's probabilities mean what they say, on the evidence of out-of-fold predictions."""

    name: Positional[str]
    """A run or an ensemble."""
    challenge: str = "demo"
    method: Method | None = None
    """How (default: the simplest within noise of the best out-of-fold log-loss)."""
    partial: bool = False
    """Fit on the folds that are finished."""

    def run(self) -> None:
        from cxrlt.calibration.calibrate import calibrate
        from cxrlt.reports.score_table import calibration_table

        challenge = self.challenge_of(self.challenge)
        report = calibrate(challenge, self.workspace, self.name, self.method, partial=self.partial)
        print(calibration_table(report))
