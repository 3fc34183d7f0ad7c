"""What the command line offers: one frozen value per stage, whose fields are its flags."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagConversionOff, Positional, arg

from cxrlt.artifacts import Workspace
from cxrlt.challenges import challenge_names, get_challenge
from cxrlt.challenges.base import Challenge
from cxrlt.predictions.choices import Method, Variant
from cxrlt.recipe import Recipe, run_name
from cxrlt.studies.flags import StudyPlan

if TYPE_CHECKING:
    from cxrlt.inputs.images import ImageSource

# Stages are imported when they run: `cxrlt --help` need not wait for torch.

ChallengeName = Positional[Annotated[str, arg(help=f"One of {', '.join(challenge_names())}.")]]


@dataclass(frozen=True, kw_only=True)
class Folders:
    root: Path = field(default_factory=lambda: Path(os.environ.get("CXRLT_ROOT", ".")))
    """Where inputs/, folds/ and submissions/ lie (default: $CXRLT_ROOT, else the current directory)."""
    inputs: Path | None = None
    """Where the challenge's tables lie (default: inputs/CHALLENGE)."""
    images: Path | None = None
    """The folder that image paths are relative to, if it is not the inputs folder."""
    cache_dir: Path | None = None
    """Where decoded images are kept (default: inputs/cache)."""

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root.absolute(), self.inputs, self.images, self.cache_dir)

    def challenge_of(self, name: str) -> Challenge:
        return get_challenge(name, self.workspace.inputs_dir(name))


@dataclass(frozen=True, kw_only=True)
class Images(Folders):
    allow_missing: bool = False
    """Go on with the rows whose image exists, and say how many that is."""
    quarantine: bool = False
    """Drop images that cannot be read, and record them."""

    def source(self, name: str) -> "ImageSource":
        from cxrlt.inputs.images import ImageSource

        return ImageSource(self.challenge_of(name), self.workspace, self.allow_missing, self.quarantine)


@dataclass(frozen=True, kw_only=True)
class Demo(Folders):
    """Make a demo challenge's radiographs: chest phantoms with the layout of CXR-LT 2023."""

    challenge: Positional[Literal["demo", "demo-single"]] = "demo"
    """demo: any number of findings in a picture; demo-single: exactly one, or none."""
    patients: int | None = None
    """How many patients (default: about 1,500 train, 400 development and 1,500 test images)."""
    seed: int = 0
    force: bool = False
    """Draw them again."""

    def run(self) -> None:
        from cxrlt.inputs.phantom import make_demo

        inputs_dir = self.workspace.inputs_dir(self.challenge)
        print(make_demo(inputs_dir, self.patients, self.seed, challenge=self.challenge, force=self.force))


@dataclass(frozen=True, kw_only=True)
class Check(Folders):
    """Read every table of a challenge, find every image, and report; changes nothing."""

    challenge: ChallengeName
    allow_missing: bool = False
    """Missing images are counted, not an error."""
    drop_shared_patients: bool = False
    """Take patients that dev or test has too out of train."""

    def run(self) -> None:
        from cxrlt.inputs.check import check

        challenge = self.challenge_of(self.challenge)
        print(
            check(
                challenge,
                self.workspace,
                allow_missing=self.allow_missing,
                drop_shared_patients=self.drop_shared_patients,
            )
        )


@dataclass(frozen=True, kw_only=True)
class Cache(Images):
    """Decode every image once into a packed cache; says first what it costs in disk and time."""

    challenge: Positional[str]
    size: int = 512
    """Side of the square images in pixels: a recipe's data.size, divided by its data.crop_pct."""

    def run(self) -> None:
        for split, cache in self.source(self.challenge).all_splits(self.size).items():
            print(f"cache {split}: {len(cache.ids):,} images ({cache.directory})")


@dataclass(frozen=True, kw_only=True)
class MakeFolds(Folders):
    """Split the training rows: patients whole, every label spread evenly."""

    challenge: Positional[str]
    n_folds: int | None = None
    """How many (default: 5; 3 for the demos)."""
    seed: int = 0
    allow_missing: bool = False
    """Split only the rows whose image exists."""
    drop_shared_patients: bool = False
    """Take patients that dev or test has too out of train."""
    force: bool = False
    """Replace the split that is there; runs trained on it are refused from then on."""

    def run(self) -> None:
        from cxrlt.folds.make import make_folds

        flags = {
            "allow_missing": self.allow_missing,
            "drop_shared_patients": self.drop_shared_patients,
            "force": self.force,
        }
        challenge = self.challenge_of(self.challenge)
        n_folds = self.n_folds or challenge.n_folds
        print(make_folds(challenge, self.workspace, n_folds, self.seed, **flags))


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
    fields: Annotated[FlagConversionOff[Recipe], arg(name="")] = field(default_factory=Recipe)

    def run(self) -> None:
        from cxrlt.predictions.predict import predict
        from cxrlt.training.train import TrainPlan, train

        name = self.name or run_name(self.recipe) + ("-refit" if self.refit else "")
        source = self.source(self.challenge)
        train(source, TrainPlan(name, self.fields, self.fold, self.refit, self.seed, self.force))
        if not self.refit:
            predict(source, name, "oof", force=self.force)


@dataclass(frozen=True, kw_only=True)
class Predict(Images):
    """Predict with every trained fold of a run, or with an ensemble's members."""

    name: Positional[str]
    """A run or an ensemble."""
    challenge: str = "demo"
    split: Literal["oof", "dev", "test"] = "test"
    """oof: the training rows each fold left out."""
    force: bool = False
    """Predict again what is finished."""

    def run(self) -> None:
        from cxrlt.predictions.predict import predict_run

        predict_run(self.source(self.challenge), self.name, self.split, force=self.force)


@dataclass(frozen=True, kw_only=True)
class Evaluate(Folders):
    """Score one model or ensemble; without a name, the leaderboard of everything trained."""

    name: Positional[str | None] = None
    """A run or an ensemble."""
    challenge: str = "demo"
    split: Literal["oof", "dev", "test"] = "oof"
    """dev and test need published labels."""

    def run(self) -> None:
        from cxrlt.predictions.evaluate import evaluate, leaderboard
        from cxrlt.reports.score_table import leaderboard_table, score_table

        challenge = self.challenge_of(self.challenge)
        if self.name is None:
            print(leaderboard_table(leaderboard(challenge, self.workspace, self.split)))
        else:
            print(score_table(evaluate(challenge, self.workspace, self.name, self.split)))


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
        from cxrlt.predictions.ensemble import make_ensemble

        challenge = self.challenge_of(self.challenge)
        how = {"kind": self.kind, "context": self.context, "study_mean": self.study_mean}
        print(make_ensemble(challenge, self.workspace, self.name, self.members, **how, force=self.force))


@dataclass(frozen=True, kw_only=True)
class Calibrate(Folders):
    """Make a model's probabilities mean what they say, on the evidence of out-of-fold predictions."""

    name: Positional[str]
    """A run or an ensemble."""
    challenge: str = "demo"
    method: Method | None = None
    """How (default: the simplest within noise of the best out-of-fold log-loss)."""

    def run(self) -> None:
        from cxrlt.predictions.calibrate import calibrate
        from cxrlt.reports.score_table import calibration_table

        challenge = self.challenge_of(self.challenge)
        print(calibration_table(calibrate(challenge, self.workspace, self.name, self.method)))


@dataclass(frozen=True, kw_only=True)
class Submit(Folders):
    """Write a submission from a run's predictions, validate it and zip it."""

    name: Positional[str]
    """A run or an ensemble."""
    challenge: str = "demo"
    split: Literal["dev", "test"] = "test"
    from_: Annotated[str | None, arg(name="from")] = None
    """Another challenge whose run NAME is: its classes are picked by name."""
    probabilities: Variant = "raw"
    """raw: the model's own. calibrated: how likely a class is. f1: .5 where F1 is best. All rank alike."""
    with_code: bool = False
    """Put the code and the recipes into the zip."""

    def run(self) -> None:
        from cxrlt.submissions.submit import submit

        origin = self.challenge_of(self.from_) if self.from_ else None
        challenge = self.challenge_of(self.challenge)
        flags = {"origin": origin, "variant": self.probabilities, "with_code": self.with_code}
        print(submit(challenge, self.workspace, self.name, self.split, **flags))


@dataclass(frozen=True, kw_only=True)
class Validate(Folders):
    """Would the server accept this file?"""

    file: Positional[Path]
    """A CSV, or a zip that holds one."""
    challenge: str = "demo"
    split: Literal["dev", "test"] = "test"

    def run(self) -> None:
        from cxrlt.submissions.validate import validate

        print(validate(self.file, self.challenge_of(self.challenge), self.split, self.workspace))


@dataclass(frozen=True, kw_only=True)
class Score(Folders):
    """The challenge's metrics for any submission file."""

    file: Positional[Path]
    """A CSV, or a zip that holds one."""
    truth: Path
    """A CSV with the ids and the true labels."""
    against: Path | None = None
    """Another submission: by how much the first one is ahead, on the same patients drawn."""
    challenge: str = "demo"

    def run(self) -> None:
        from cxrlt.reports.score_table import ahead_line, score_table
        from cxrlt.submissions.score import score_file

        challenge = self.challenge_of(self.challenge)
        first = score_file(self.file, self.truth, challenge, self.workspace)
        print(score_table(first))
        if self.against is not None:
            second = score_file(self.against, self.truth, challenge, self.workspace)
            print(f"\n{ahead_line(first, second, str(self.against))}")


@dataclass(frozen=True, kw_only=True)
class Run(Images):
    """From radiographs to a valid submission: every stage in order, one training job per visible GPU."""

    challenge: ChallengeName
    recipes: tuple[str, ...] | None = None
    """Names or YAML files of recipes (default: the challenge's own)."""
    n_folds: int | None = None
    """How many (default: 5; 3 for the demos)."""
    seed: int = 0
    quick: bool = False
    """200 patients and one epoch, through to the zip, in a place of its own: before days of GPU time."""
    drop_shared_patients: bool = False
    """Take patients that dev or test has too out of train."""

    def run(self) -> None:
        from cxrlt.pipeline import Plan, run

        source = self.source(self.challenge)
        n_folds = self.n_folds or source.challenge.n_folds
        run(source, Plan(self.recipes, n_folds, self.seed, self.quick, self.drop_shared_patients))


@dataclass(frozen=True, kw_only=True)
class Study(Images):
    """Compare losses, or tricks: one recipe trained alike but for one thing, and what differs.

    Learning rate and gradient clipping are chosen per loss first; tricks are tried with the recipe's. An
    interrupted study goes on when started again; a finished one only writes its tables and figures anew.
    """

    kind: Positional[Literal["losses", "tricks"]]
    """What is compared."""
    challenge: ChallengeName
    plan: Annotated[StudyPlan, arg(name="")] = field(default_factory=StudyPlan)

    def run(self) -> None:
        from cxrlt.studies.losses.study import study_losses
        from cxrlt.studies.tricks.study import study_tricks

        study = study_losses if self.kind == "losses" else study_tricks
        print(study(self.source(self.challenge), self.plan))


COMMANDS: dict[str, type[Folders]] = {
    "demo": Demo,
    "check": Check,
    "cache": Cache,
    "folds": MakeFolds,
    "train": Train,
    "predict": Predict,
    "evaluate": Evaluate,
    "ensemble": Ensemble,
    "calibrate": Calibrate,
    "submit": Submit,
    "validate": Validate,
    "score": Score,
    "run": Run,
    "study": Study,
}
