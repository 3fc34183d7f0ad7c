"""What an experiment of losses is to do: every loss at a setting of its own."""

from dataclasses import dataclass
from functools import cached_property

from cxrlt.errors import UserError
from cxrlt.experiments.losses.variants import DEFAULT_LOSSES, Variant, ablation_variants, loss_variants
from cxrlt.experiments.plan import Experiment, Run

TUNING_SEED = 1000
"""The seed that learning rate and clipping are chosen on; its runs are not reported."""


@dataclass(frozen=True)
class LossExperiment(Experiment):
    """Raises UserError for what does not fit."""

    def __post_init__(self) -> None:
        if self.plan.tricks is not None:
            raise UserError("--tricks is a flag of cxrlt compare tricks: leave it out.")
        if self.plan.ablation and self.plan.losses:
            raise UserError("--ablation compares one loss with its own parts: leave --losses out.")
        if not self.plan.rates or min(self.plan.rates) <= 0:
            raise UserError("Every one of --rates must be above 0.")
        super().__post_init__()

    @property
    def kind(self) -> str:
        return self.plan.ablation or "losses"

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The first is what the others are compared with."""
        if self.plan.ablation:
            return ablation_variants(self.plan.ablation)
        return loss_variants(self.plan.losses or DEFAULT_LOSSES[self.challenge.task], self.challenge.task)

    def variant_of(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)

    def run(self, variant: Variant, seed: int, lr: float, clip_grad: float | None) -> Run:
        """A reported run; its name holds the setting, so that one chosen from further rates has another."""
        name = f"{self.name}/{variant.name}-{_setting(lr, clip_grad)}-seed{seed}"
        return Run(variant.name, seed, name, variant.recipe(self.base, lr, clip_grad))

    def tuning_run(self, variant: Variant, lr: float, clip_grad: float | None) -> Run:
        """A run that only chooses: its first fold is its only one."""
        name = f"{self.name}/tuning/{variant.tuning}-{_setting(lr, clip_grad)}"
        return Run(variant.name, TUNING_SEED, name, variant.recipe(self.base, lr, clip_grad))


def _setting(lr: float, clip_grad: float | None) -> str:
    return f"lr{lr:g}-clip" + ("off" if clip_grad is None else f"{clip_grad:g}")
