"""`cxrlt compare tricks`: one recipe, and every trick alone on top of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

from cxrlt.errors import UserError
from cxrlt.experiments.costs import clock_of, costs
from cxrlt.experiments.differences import TruthResult
from cxrlt.experiments.experiment import Experiment, ExperimentFigures, Row, Run
from cxrlt.experiments.figures import differences
from cxrlt.experiments.variants import (
    Context,
    ExperimentVariant,
    Fields,
    Need,
    Setting,
    VariantKind,
    require_names,
    why_not_applicable,
    with_fields,
)
from cxrlt.predictions.predict import flips
from cxrlt.predictions.study_mean import disputed_rows, has_studies
from cxrlt.recipe import Recipe, override_recipe
from cxrlt.training.timing import WALL

PLAIN: Fields = {
    "predict": {
        "tta": {"flip": False, "scales": (), "crop": None, "merge": "logits"},
        "study_mean": "off",
        "gate": 0.0,
        "weights": "last",
    }
}
"""What makes a recipe predict every image alone and once."""
BASE = ExperimentVariant("base")
TRICKS: dict[str, ExperimentVariant] = {}


def trick(
    name: str,
    about: str,
    changes: Fields | Callable[[Recipe], Recipe] = MappingProxyType({}),
    kind: VariantKind = "trained",
    needs: Sequence[Need] = (),
    **how: Any,
) -> None:
    """Let `cxrlt compare tricks` know a trick: what it changes of a recipe, and fields of ExperimentVariant.

    Raises ValueError for a name twice.
    """
    if name in TRICKS or name == BASE.name:
        raise ValueError(f"two tricks are called {name!r}")
    recipe = changes if callable(changes) else with_fields(changes)
    TRICKS[name] = ExperimentVariant(name, about, kind, recipe, tuple(needs), **how)


def studies(context: Context) -> str | None:
    if not has_studies(context.table):
        return "no study has two images"
    if n := int(disputed_rows(context.table, context.challenge.classes).sum()):
        return f"{n:,} images differ in labels from others of their study, so truth is of images"
    return None


def views(context: Context) -> str | None:
    return "all images have the same view" if context.table["view"].nunique() < 2 else None


def no_finding(context: Context) -> str | None:
    return None if context.challenge.no_finding else "there is no class for images without a finding"


def multi_label(context: Context) -> str | None:
    return None if context.challenge.task == "multi_label" else "an image has exactly one class"


def mirrored_training(context: Context) -> str | None:
    mirrored = override_recipe(context.base, {"predict": {"tta": {"flip": True}}})
    try:
        return None if flips(mirrored, context.challenge.classes) else "training does not mirror images"
    except UserError:
        return "classes have a side, which a mirror image exchanges"


def all_folds(context: Context) -> str | None:
    return None if context.all_folds else "it is fitted on other folds: leave --folds out"


def rising(base: Recipe) -> Recipe:
    """Half of the epochs at two thirds of the size, to the nearest 32 pixels, the others at the full size."""
    size, epochs = max(32, 32 * round(base.data.size * 2 / 3 / 32)), base.schedule.epochs // 2
    if size >= base.data.size or not epochs:
        return base
    stage = {"epochs": epochs, "size": size}
    return override_recipe(base, {"schedule": {"epochs": base.schedule.epochs - epochs, "stages": (stage,)}})


def second_stage(model: Fields, data: Fields = MappingProxyType({})) -> Fields:
    """On features of BASE's frozen backbone, which are those of single images at one size."""
    return {
        "model": {"frozen": True, **model},
        "data": {"mix": {"kinds": ()}, **data},
        "schedule": {"stages": ()},
    }


trick(
    "ml_decoder",
    "a query per class attends to the feature map",
    {"model": {"head": {"name": "ml_decoder"}, "pool": "backbone"}},
)
trick("csra", "class-specific residual attention", {"model": {"head": {"name": "csra"}, "pool": "backbone"}})
trick("gem", "generalised-mean pooling", {"model": {"head": {"name": "linear"}, "pool": "gem"}})
trick("attention", "attention pooling", {"model": {"head": {"name": "linear"}, "pool": "attention"}})
for _name, _about in (
    ("repeat_factor", "images of rare classes come more often"),
    ("class_balanced", "all classes come equally often"),
):
    trick(_name, _about, {"data": {"sampling": {"kind": _name}}})
for _name, _about in (
    ("mosaic", "four images in one, with every finding of any"),
    ("mixup", "the weighted mean of two images"),
    ("cutmix", "a rectangle of another image"),
):
    trick(_name, f"{_about}, half of the time", {"data": {"mix": {"kinds": (_name,)}}})
for _name in ("light", "medium", "strong"):
    trick(f"augment_{_name}", f"the augmentation policy {_name}", {"data": {"augment": {"policy": _name}}})
trick("soup", "greedy average of the last epochs' weights", {"soup": {"kind": "greedy"}})
trick("rising", "half of the epochs at two thirds of the size", rising)
trick(
    "fusion",
    "a transformer over up to 4 images of a study, on BASE's frozen features",
    second_stage({"head": {"name": "linear"}, "pool": "average", "fusion": {"max_images": 4}}),
    "second stage",
    [studies],
)
trick(
    "fusion_decoder",
    "the same with the head ml_decoder",
    second_stage({"head": {"name": "ml_decoder"}, "pool": "backbone", "fusion": {"max_images": 4}}),
    "second stage",
    [studies],
)
trick(
    "crt",
    "a new linear head, class-balanced, on BASE's frozen features (Kang et al., ICLR 2020)",
    second_stage({"head": {"name": "linear"}, "new_head": True}, {"sampling": {"kind": "class_balanced"}}),
    "second stage",
)
for _name, _about, _predict, _needs in (
    ("flip", "mean with the mirror image", {"tta": {"flip": True}}, [mirrored_training]),
    ("scales", "mean with zooms of 0.9 and 1.1", {"tta": {"scales": (0.9, 1.1)}}, []),
    ("crops", "mean with five crops of 0.875", {"tta": {"crop": 0.875}}, []),
    ("study_mean", "mean over the images of a study", {"study_mean": "on"}, [studies]),
    (
        "view_weights",
        "mean over a study with weights of views found out of fold",
        {"study_mean": "search"},
        [studies, views, all_folds],
    ),
    ("gate", "findings lowered by half of no finding", {"gate": 0.5}, [no_finding, multi_label]),
):
    trick(_name, _about, {"predict": _predict}, "prediction", _needs)
for _name, _about, _probabilities in (
    ("calibrate", "probabilities calibrated out of fold, in the same order", "calibrated"),
    ("thresholds", "the same with .5 where each class's F1 is best out of fold", "f1"),
):
    trick(_name, _about, {}, "prediction", [multi_label, all_folds], probabilities=_probabilities)
for _name, _about, _needs in (
    ("mean", "mean of BASE and all that was trained", []),
    ("greedy", "greedy selection among them", []),
    ("per_class", "weights of each class among them", [multi_label]),
    ("stack", "regularised linear model of them per class", [multi_label]),
):
    trick(_name, _about, {}, "ensemble", [*_needs, all_folds], ensemble=_name)
trick(
    "context",
    "regularised linear model of BASE and what is known of view, study and patient",
    {},
    "ensemble",
    [multi_label, all_folds],
    ensemble="stack",
    alone=True,
)


class TrickExperiment(Experiment):
    """Raises UserError for what does not fit."""

    what = "tricks"
    key = heading = "trick"
    probabilities = True
    columns = (
        ("training time", lambda row: _times(row["training_time"])),
        ("passes", lambda row: _times(row["passes"])),
    )
    legend = (
        "Second stages, predictions and ensembles are computed from BASE's own models: for them 2 s² is the "
        "variance between seeds of the difference to BASE with the same seed, averaged over a kind's tricks.",
        "mF1@.5 and local ECE (15 bins, class by class) are of probabilities, all others of their order.",
        "Passes: predictions of a network per image, all members of an ensemble together.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_possible(self.plan.tricks or ())

    def _require_possible(self, named: Sequence[str]) -> None:
        require_names("--tricks", named, TRICKS, "the known ones are")
        wrong = "; ".join(f"{name} ({why})" for name, why in self._unfit.items() if name in named)
        if wrong:
            raise UserError(f"--tricks: {self.challenge.name} with this recipe cannot have {wrong}.")
        lonely = [v.name for v in self.variants if v.kind == "ensemble" and not v.alone]
        if lonely and not any(v.kind in ("trained", "second stage") for v in self.variants[1:]):
            raise UserError(
                f"--tricks {', '.join(lonely)}: there is nothing to combine with BASE. Name tricks that are "
                "trained, too."
            )

    @cached_property
    def base(self) -> Recipe:
        """The given recipe, made plain in how it predicts."""
        return override_recipe(super().base, dict(PLAIN))

    @cached_property
    def _unfit(self) -> Mapping[str, str]:
        """Every trick that does not fit, and why."""
        all_folds = set(self.folds) == set(range(self.split.n_folds))
        context = Context(self.challenge, self.scored.rows.table, self.base, all_folds)
        reasons = {name: why_not_applicable(variant, context) for name, variant in TRICKS.items()}
        return {name: why for name, why in reasons.items() if why}

    @property
    def left_out(self) -> Mapping[str, str]:
        """Those that nobody asked for by name."""
        return {} if self.plan.tricks else self._unfit

    @cached_property
    def variants(self) -> tuple[ExperimentVariant, ...]:
        """In the order of the registry."""
        chosen = [name for name in TRICKS if name not in self._unfit]
        if self.plan.tricks is not None:
            chosen = [name for name in TRICKS if name in self.plan.tricks]
        return (BASE, *(TRICKS[name] for name in chosen))

    def design(self, runs: Sequence[Run]) -> list[str]:
        recipe, clock = self.base, clock_of(self, runs)
        rough = f", with up to {self.n_workers} trainings side by side and as rough as that is"
        return [
            f"BASE is {self.recipe_name}: {recipe.model.backbone}, {recipe.data.size} px, "
            f"{recipe.schedule.epochs} epochs, every image predicted as it is and alone. "
            f"Folds {', '.join(map(str, self.folds))} of {self.split.n_folds}; seeds: {self.plan.seeds}. "
            "Each trick is alone, and nothing was tuned for it: every run has BASE's learning rate.",
            f"Training time: {clock} seconds as a multiple of BASE's with the same fold and seed, median "
            "over folds and seeds, and with what a trick needs first: BASE for a second stage, all members "
            f"for an ensemble{rough if clock == WALL else ''}.",
        ]

    def describe(self, run: Run) -> Row:
        return {"what": run.variant.about, "stage": "" if self.is_reference(run) else run.variant.kind}

    def measure(self, runs: Sequence[Run], settings: Mapping[str, Setting]) -> Mapping[str, Row]:
        return costs(self, runs)

    def figures(self, runs: Sequence[Run], results: Sequence[TruthResult]) -> ExperimentFigures:
        caption = (
            "Difference to BASE; the noise of seeds is not in these intervals, but in the verdict: green "
            "higher, red lower, grey within noise."
        )
        return ExperimentFigures(
            {r.truth.name: differences(self, r, caption, by_verdict=True) for r in results}
        )


def _times(value: float) -> str:
    return "–" if value != value else f"{value:.3g} ×"


EXPERIMENT = TrickExperiment
