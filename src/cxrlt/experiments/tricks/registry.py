"""The tricks that an experiment can compare: what each changes, and what it needs of a challenge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cxrlt.calibration import Variant
from cxrlt.ensembles.weights import Kind
from cxrlt.recipe import Recipe

Stage = Literal["trained", "second stage", "prediction", "ensemble"]
Need = Literal["studies", "views", "no finding", "multi-label", "mirrored training", "all folds"]
Fields = Mapping[str, Any]

BASE = "base"
"""The row that every trick is compared with, and the first part of its runs' names."""
PLAIN: Fields = {
    "predict": {
        "tta": {"flip": False, "scales": (), "crop": None, "merge": "logits"},
        "study_mean": "off",
        "gate": 0.0,
        "weights": "last",
    }
}
"""What makes a recipe predict every image alone and once."""


@dataclass(frozen=True)
class Trick:
    """One row of the comparison.

    trained: a training of its own, with other fields of the recipe. second stage: one that starts from BASE's
    folds. prediction: BASE's weights with other fields. ensemble: of what was trained with the same seed, or
    with `alone` of BASE only. `changes` are the fields, or what makes them from BASE's recipe.
    """

    name: str
    about: str
    stage: Stage
    changes: Fields | Callable[[Recipe], Fields] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    kind: Kind | None = None
    alone: bool = False
    probabilities: Variant = "raw"
    """Which probabilities are scored; all keep the order of the raw ones."""

    def fields(self, base: Recipe) -> dict[str, Any]:
        """What it puts on top of `base`."""
        return dict(self.changes(base) if callable(self.changes) else self.changes)


def rising(base: Recipe) -> Fields:
    """Half of the epochs at two thirds of the size, to the nearest 32 pixels, the others at the full size."""
    size, epochs = max(32, 32 * round(base.data.size * 2 / 3 / 32)), base.schedule.epochs // 2
    if size >= base.data.size or not epochs:
        return {}
    stage = {"epochs": epochs, "size": size}
    return {"schedule": {"epochs": base.schedule.epochs - epochs, "stages": (stage,)}}


def _trained(name: str, about: str, changes: Fields | Callable[[Recipe], Fields]) -> Trick:
    return Trick(name, about, "trained", changes)


def _augmented(policy: str) -> Trick:
    return _trained(
        f"augment_{policy}", f"the augmentation policy {policy}", {"data": {"augment": {"policy": policy}}}
    )


def _mixed(kind: str, about: str) -> Trick:
    return _trained(kind, f"{about}, half of the time", {"data": {"mix": {"kinds": (kind,)}}})


def _second(name: str, about: str, model: Fields, data: Fields | None = None, *needs: Need) -> Trick:
    """On features of BASE's frozen backbone, which are those of single images at one size."""
    fields = {
        "model": {"frozen": True, **model},
        "data": {"mix": {"kinds": ()}, **(data or {})},
        "schedule": {"stages": ()},
    }
    return Trick(name, about, "second stage", fields, needs)


def _predicted(name: str, about: str, predict: Fields, *needs: Need) -> Trick:
    return Trick(name, about, "prediction", {"predict": predict}, needs)


def _mapped(name: str, about: str, probabilities: Variant) -> Trick:
    return Trick(name, about, "prediction", needs=("multi-label", "all folds"), probabilities=probabilities)


def _ensemble(name: Kind, about: str, *needs: Need) -> Trick:
    return Trick(name, about, "ensemble", needs=(*needs, "all folds"), kind=name)


TRICKS: Mapping[str, Trick] = {
    trick.name: trick
    for trick in (
        _trained(
            "ml_decoder",
            "a query per class attends to the feature map",
            {"model": {"head": {"name": "ml_decoder"}, "pool": "backbone"}},
        ),
        _trained(
            "csra",
            "class-specific residual attention",
            {"model": {"head": {"name": "csra"}, "pool": "backbone"}},
        ),
        _trained("gem", "generalised-mean pooling", {"model": {"head": {"name": "linear"}, "pool": "gem"}}),
        _trained(
            "attention", "attention pooling", {"model": {"head": {"name": "linear"}, "pool": "attention"}}
        ),
        _trained(
            "repeat_factor",
            "images of rare classes come more often",
            {"data": {"sampling": {"kind": "repeat_factor"}}},
        ),
        _trained(
            "class_balanced", "all classes come alike", {"data": {"sampling": {"kind": "class_balanced"}}}
        ),
        _mixed("mosaic", "four images in one, with every finding of any"),
        _mixed("mixup", "the weighted mean of two images"),
        _mixed("cutmix", "a rectangle of another image"),
        *(_augmented(policy) for policy in ("light", "medium", "strong")),
        _trained("soup", "greedy average of the last epochs' weights", {"soup": {"kind": "greedy"}}),
        _trained("rising", "half of the epochs at two thirds of the size", rising),
        _second(
            "fusion",
            "a transformer over up to 4 images of a study, on BASE's frozen features",
            {"head": {"name": "linear"}, "pool": "average", "fusion": {"max_images": 4}},
            None,
            "studies",
        ),
        _second(
            "fusion_decoder",
            "the same with the head ml_decoder",
            {"head": {"name": "ml_decoder"}, "pool": "backbone", "fusion": {"max_images": 4}},
            None,
            "studies",
        ),
        _second(
            "crt",
            "the linear head anew, class-balanced, on BASE's frozen features (Kang et al., ICLR 2020)",
            {"head": {"name": "linear"}, "new_head": True},
            {"sampling": {"kind": "class_balanced"}},
        ),
        _predicted("flip", "mean with the mirror image", {"tta": {"flip": True}}, "mirrored training"),
        _predicted("scales", "mean with zooms of 0.9 and 1.1", {"tta": {"scales": (0.9, 1.1)}}),
        _predicted("crops", "mean with five crops of 0.875", {"tta": {"crop": 0.875}}),
        _predicted("study_mean", "mean over the images of a study", {"study_mean": "on"}, "studies"),
        _predicted(
            "view_weights",
            "mean over a study with weights of views found out of fold",
            {"study_mean": "search"},
            "studies",
            "views",
            "all folds",
        ),
        _predicted(
            "gate", "findings lowered by half of no finding", {"gate": 0.5}, "no finding", "multi-label"
        ),
        _mapped("calibrate", "probabilities calibrated out of fold, in the same order", "calibrated"),
        _mapped("thresholds", "the same with .5 where each class's F1 is best out of fold", "f1"),
        _ensemble("mean", "mean of BASE and all that was trained"),
        _ensemble("greedy", "greedy selection among them"),
        _ensemble("per_class", "weights of each class among them", "multi-label"),
        _ensemble("stack", "regularised linear model of them per class", "multi-label"),
        Trick(
            "context",
            "regularised linear model of BASE and what is known of view, study and patient",
            "ensemble",
            needs=("multi-label", "all folds"),
            kind="stack",
            alone=True,
        ),
    )
}
