"""What an experiment compares: losses with their options, each under a name of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cxrlt.errors import UserError
from cxrlt.experiments.flags import Ablation
from cxrlt.heads import cosine_heads
from cxrlt.losses import LOSSES, loss_names
from cxrlt.recipe import HeadConfig, LossConfig, Recipe

Option = float | bool | str | None
DEFAULT_LOSSES = {
    "multi_label": ("bce", "asl", "ral", "class_aware"),
    "single_label": ("ce", "ldam", "balanced_softmax", "lmf", "ral"),
}
HILL, NO_HILL = "with-hill", "no-hill"


@dataclass(frozen=True)
class Variant:
    """One row of the comparison; `tuned_as` names the settings that it shares with other variants."""

    name: str
    loss: str
    options: Mapping[str, Option] = field(default_factory=dict)
    tuned_as: str = ""

    @property
    def tuning(self) -> str:
        return self.tuned_as or self.name

    def recipe(self, base: Recipe, lr: float, clip_grad: float | None) -> Recipe:
        """`base` with this variant's loss, learning rate and clipping, and nothing else changed.

        Losses whose authors ask for a cosine head get one; the others keep the recipe's.
        """
        loss = LossConfig(name=self.loss, options=dict(self.options), bias_start=base.loss.bias_start)
        optim = base.optim.model_copy(update={"lr": lr, "clip_grad": clip_grad})
        head = {"head": HeadConfig(name=cosine_heads()[0])} if LOSSES[self.loss].cosines == "needed" else {}
        model = base.model.model_copy(update=head)
        return base.model_copy(update={"loss": loss, "optim": optim, "model": model})


def loss_variants(losses: Sequence[str], task: str) -> tuple[Variant, ...]:
    """Losses at their defaults. Raises UserError naming those that fit `task` for any other name."""
    known = loss_names() if task == "single_label" else loss_names("multi_label")
    wrong = [name for name in losses if name not in known]
    if wrong:
        raise UserError(
            f"--losses {', '.join(wrong)}: this challenge can be trained with {', '.join(known)}."
        )
    twice = sorted({name for name in losses if losses.count(name) > 1})
    if twice:
        raise UserError(f"--losses names {', '.join(twice)} more than once.")
    return tuple(Variant(name, name) for name in losses)


def ablation_variants(ablation: Ablation) -> tuple[Variant, ...]:
    """The whole method first, then what is left without each of its parts."""
    return {"class_aware": _class_aware, "ral": _ral, "ral_sensitivity": _ral_sensitivity}[ablation]()


def _class_aware() -> tuple[Variant, ...]:
    full: dict[str, Option] = {"class_weights": "inverse_frequency", "margin": 0.2, "decoupled": True}
    changed: dict[str, dict[str, Option]] = {
        "full": {},
        "no-decoupling": {"decoupled": False},
        "no-margin": {"margin": 0.0},
        "no-class-awareness": {"base": 0.5},
        "no-class-weights": {"class_weights": "uniform"},
    }
    return tuple(Variant(name, "class_aware", full | options) for name, options in changed.items())


def _ral() -> tuple[Variant, ...]:
    """Without the polynomial, epsilon = 0, every coefficient of the positives is the logarithm's own."""
    no_hill: dict[str, Option] = {"hill_lambda": None}
    no_polynomial: dict[str, Option] = {"epsilon_pos": 0.0, "epsilon_pos_pow": 0.0}
    return (
        Variant("paper", "ral"),
        Variant(NO_HILL, "ral", no_hill),
        Variant("no-polynomial", "ral", no_polynomial),
        Variant("no-hill-no-polynomial", "ral", no_hill | no_polynomial),
        Variant("released", "ral", {"form": "released"}),
    )


def _ral_sensitivity() -> tuple[Variant, ...]:
    """One hyper-parameter at a time, with and without the Hill factor; all share their parent's tuning."""
    changes: list[dict[str, Option]] = [
        {},
        {"gamma_neg": 2.0},
        {"gamma_neg": 6.0},
        {"clip": 0.0},
        {"clip": 0.2},
        {"epsilon_pos_pow": -1.0},
        {"epsilon_pos_pow": 0.0},
    ]
    parents: dict[str, dict[str, Option]] = {HILL: {}, NO_HILL: {"hill_lambda": None}}
    return tuple(
        Variant("-".join([parent, *(f"{k}{v:g}" for k, v in change.items())]), "ral", fixed | change, parent)
        for parent, fixed in parents.items()
        for change in changes
    )
