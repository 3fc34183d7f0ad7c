"""The experiments of the papers: their data sets, recipes and losses, and their published numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cxrlt.challenges.base import Challenge
from cxrlt.experiments import PaperName
from cxrlt.experiments.lists.losses import Options, make_loss_variant
from cxrlt.experiments.variants import ExperimentVariant, Fields, require_known_names
from cxrlt.losses import LOSSES, loss_names

PUBLISHED = Path(__file__).parent / "published.csv"
"""Numbers with a public source, at most one per row of a paper's table."""


@dataclass(frozen=True)
class Paper:
    """The grid of a paper.

    `recipes`: the smallest first. `losses`: name -> loss and options, the reference first. `published_folds`:
    number of folds by image with the protocol "paper"; None for that of the data set.
    `published_fields`: recipe fields of the protocol "paper" that the recipes do not have. `plain_images`:
    the paper does not normalise or augment, so the protocol "fair" does both.
    """

    challenges: Sequence[str]
    recipes: Sequence[str]
    losses: Mapping[str, tuple[str, Options]]
    published_fields: Fields = field(default_factory=dict)
    published_folds: int | None = None
    plain_images: bool = False

    def fair_fields(self, challenge: Challenge) -> Fields:
        """Return the recipe fields of the protocol "fair": no epoch is chosen on the rows that are scored."""
        last_epoch: Fields = {"predict": {"weights": "last"}}
        if not self.plain_images:
            return last_epoch
        augment = {"policy": challenge.augment_policy, "flip": True}
        return {**last_epoch, "model": {"normalise": True}, "data": {"augment": augment}}

    def variants(self, task: str, chosen: Sequence[str] | None = None) -> tuple[ExperimentVariant, ...]:
        """Return the losses that fit the task: the paper's, or the `chosen` ones, which can be others too.

        Raises UserError for an unknown name.
        """
        fitting = loss_names() if task == "single_label" else loss_names("multi_label")
        require_known_names("--losses", chosen or (), {**self.losses, **LOSSES}, "the losses are")
        rows = {name: self.losses.get(name, (name, {})) for name in chosen or self.losses}
        return tuple(
            make_loss_variant(name, loss, options)
            for name, (loss, options) in rows.items()
            if loss in fitting
        )


def _plain(*names: str) -> dict[str, tuple[str, Options]]:
    return {name: (name, {}) for name in names}


CLASS_AWARE: Options = {"class_weights": "inverse_frequency", "margin": 0.2}
PAPERS: Mapping[PaperName, Paper] = {
    "lmf": Paper(
        challenges=("ham10000", "isic2019", "odir5k", "covid-radiography"),
        recipes=("lmf_densenet121", "lmf_efficientnetv2_s", "lmf_resnet50"),
        losses={
            **_plain("ce", "softmax_focal", "ldam", "lmf"),
            "bwcce": ("ce", {"class_weights": "complement"}),
            **_plain("balanced_softmax", "logit_adjusted"),
        },
        published_folds=7,  # with the recipes' holdout: 71 % to train, 14 % to choose the epoch, 14 % to test
        plain_images=True,
    ),
    "ral": Paper(
        challenges=("isic2018", "aptos2019", "cxrlt2023", "nihlt"),
        recipes=("ral_convnext_small",),
        losses={
            **_plain("bce", "focal", "asl", "apl", "hill", "ral"),
            "ral-released": ("ral", {"form": "released"}),
            **_plain("ral_single"),
        },
        published_fields={"predict": {"weights": "best"}},
    ),
    "class-aware": Paper(
        challenges=("nih14",),
        recipes=("class_aware_swin_base",),
        losses={
            **_plain("bce", "focal", "asl"),
            "class_aware-no-decoupling": ("class_aware", {**CLASS_AWARE, "decoupled": False}),
            "class_aware-no-margin": ("class_aware", {**CLASS_AWARE, "margin": 0.0}),
            "class_aware": ("class_aware", CLASS_AWARE),
        },
    ),
}


def experiment_name(paper: PaperName, quick: bool) -> str:
    """Return the name of the folder of a paper's experiments."""
    return f"reproduce-{paper}{'-quick' * quick}"


def published_numbers(paper: PaperName) -> pd.DataFrame:
    """Return the published numbers: rows with challenge, recipe, loss, metric, value and source."""
    table = pd.read_csv(PUBLISHED)
    return table[table["paper"] == paper].drop(columns="paper")
