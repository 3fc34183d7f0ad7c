"""What an experiment of tricks is to do: one recipe, and every trick alone on top of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cxrlt.errors import UserError
from cxrlt.experiments.flags import ExperimentPlan
from cxrlt.experiments.plan import Experiment, Run
from cxrlt.experiments.tricks.fit import Facts, misfit
from cxrlt.experiments.tricks.registry import BASE, PLAIN, TRICKS, Stage, Trick
from cxrlt.folds.rows import TrainRows
from cxrlt.predictions.present import Present
from cxrlt.recipe import Recipe, changed


@dataclass(frozen=True)
class TrickExperiment(Experiment):
    """Raises UserError for what does not fit."""

    kind = "tricks"

    def __post_init__(self) -> None:
        if self.plan.losses or self.plan.ablation or self.plan.rates != ExperimentPlan().rates:
            raise UserError(
                "--losses, --ablation and --rates are flags of cxrlt compare losses: leave them out."
            )
        super().__post_init__()
        self._require_possible(self.plan.tricks or ())

    def _require_possible(self, named: Sequence[str]) -> None:
        unknown = [name for name in named if name not in TRICKS]
        if unknown:
            raise UserError(f"--tricks {', '.join(unknown)}: the known ones are {', '.join(TRICKS)}.")
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise UserError(f"--tricks names {', '.join(twice)} more than once.")
        wrong = "; ".join(f"{name} ({why})" for name, why in self.left_out.items() if name in named)
        if wrong:
            raise UserError(f"--tricks: {self.challenge.name} with this recipe cannot have {wrong}.")
        lonely = [trick.name for trick in self.of_stage("ensemble") if not trick.alone]
        if lonely and not (self.of_stage("trained") or self.of_stage("second stage")):
            raise UserError(
                f"--tricks {', '.join(lonely)}: there is nothing to combine with BASE. Name tricks that are "
                "trained, too."
            )

    @cached_property
    def base(self) -> Recipe:
        """The given recipe, made plain in how it predicts."""
        return changed(super().base, dict(PLAIN))

    @cached_property
    def scored(self) -> Present:
        """What there is now of the rows that the experiment's folds leave out."""
        return self.present.only(self.folds)

    @property
    def rows(self) -> TrainRows:
        """Those rows."""
        return self.scored.rows

    @cached_property
    def left_out(self) -> Mapping[str, str]:
        """Every trick that does not fit, and why."""
        all_folds = set(self.folds) == set(range(self.split.n_folds))
        facts = Facts(self.challenge, self.rows.table, self.base, all_folds)
        reasons = {name: misfit(trick, facts) for name, trick in TRICKS.items()}
        return {name: why for name, why in reasons.items() if why}

    @cached_property
    def tricks(self) -> tuple[Trick, ...]:
        """In the order of the registry."""
        named = self.plan.tricks
        return tuple(
            trick
            for name, trick in TRICKS.items()
            if (name not in self.left_out if named is None else name in named)
        )

    def of_stage(self, stage: Stage) -> list[Trick]:
        return [trick for trick in self.tricks if trick.stage == stage]

    @property
    def base_runs(self) -> list[Run]:
        """One per seed."""
        return [Run(BASE, seed, self.name_of(BASE, seed), self.base) for seed in range(self.plan.seeds)]

    def runs(self, tricks: Sequence[Trick]) -> list[Run]:
        """Every trick with every seed; a second stage starts from BASE's run of the same seed."""
        return [self._run(trick, seed) for trick in tricks for seed in range(self.plan.seeds)]

    def _run(self, trick: Trick, seed: int) -> Run:
        recipe = changed(self.base, trick.fields(self.base))
        if trick.stage == "second stage":
            recipe = changed(recipe, {"model": {"start_from": self.name_of(BASE, seed)}})
        return Run(trick.name, seed, self.name_of(trick.name, seed), recipe)

    def name_of(self, variant: str, seed: int) -> str:
        return f"{self.name}/{variant}-seed{seed}"
