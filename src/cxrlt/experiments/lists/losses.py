"""`cxrlt compare losses`: losses, or one loss without each of its parts, each at its own learning rate."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from cxrlt.errors import UserError
from cxrlt.experiments import Ablation
from cxrlt.experiments.costs import step_times
from cxrlt.experiments.differences import RunScore, TruthResult
from cxrlt.experiments.experiment import TUNING_SEED, Experiment, ExperimentFigures, Row, Run
from cxrlt.experiments.figures import (
    differences,
    label_figures,
    loss_curves,
    mean_probabilities,
    ranking_curves,
    save,
)
from cxrlt.experiments.report import number, signed
from cxrlt.experiments.score import GAP
from cxrlt.experiments.variants import ExperimentVariant, Setting, require_names
from cxrlt.heads import cosine_heads
from cxrlt.losses import LOSSES, loss_names
from cxrlt.recipe import HeadConfig, LossConfig, Recipe
from cxrlt.reports.experiment_page import PageFigure, PageTable, Section
from cxrlt.reports.loss_figures import settings_figure

Option = float | bool | str | None
Options = Mapping[str, Option]
DEFAULT_LOSSES = {
    "multi_label": ("bce", "asl", "ral", "class_aware"),
    "single_label": ("ce", "ldam", "balanced_softmax", "lmf", "ral"),
}
HILL, NO_HILL = "with-hill", "no-hill"
MOST_LINES = 8  # in one panel; of more variants only those are drawn that others are tuned as


def loss_variant(
    name: str, loss: str, options: Options | None = None, tuned_as: str = ""
) -> ExperimentVariant:
    return ExperimentVariant(name, recipe=_with_loss(loss, options or {}), tuned_as=tuned_as)


def _with_loss(name: str, options: Options) -> Callable[[Recipe], Recipe]:
    """A recipe's `loss` changed and nothing else; losses whose authors ask for a cosine head get one."""

    def with_loss(base: Recipe) -> Recipe:
        loss = LossConfig(name=name, options=dict(options), bias_init=base.loss.bias_init)
        head = {"head": HeadConfig(name=cosine_heads()[0])} if LOSSES[name].cosines == "needed" else {}
        model = base.model.model_copy(update=head)
        return base.model_copy(update={"loss": loss, "model": model})

    return with_loss


def loss_variants(losses: Sequence[str], task: str) -> tuple[ExperimentVariant, ...]:
    """Losses at their defaults. Raises UserError naming those that fit `task` for any other name."""
    known = loss_names() if task == "single_label" else loss_names("multi_label")
    require_names("--losses", losses, known, "this challenge can be trained with")
    return tuple(loss_variant(name, name) for name in losses)


def ablation_variants(ablation: Ablation) -> tuple[ExperimentVariant, ...]:
    """The whole method first, then what is left without each of its parts."""
    return {"class_aware": _class_aware, "ral": _ral, "ral_sensitivity": _ral_sensitivity}[ablation]()


def _class_aware() -> tuple[ExperimentVariant, ...]:
    full: dict[str, Option] = {"class_weights": "inverse_frequency", "margin": 0.2, "decoupled": True}
    changed: dict[str, dict[str, Option]] = {
        "full": {},
        "no-decoupling": {"decoupled": False},
        "no-margin": {"margin": 0.0},
        "no-class-awareness": {"base": 0.5},
        "no-class-weights": {"class_weights": "uniform"},
    }
    return tuple(loss_variant(name, "class_aware", full | options) for name, options in changed.items())


def _ral() -> tuple[ExperimentVariant, ...]:
    """Without the polynomial, epsilon = 0, every coefficient of the positives is the logarithm's own."""
    no_hill: dict[str, Option] = {"hill_lambda": None}
    no_polynomial: dict[str, Option] = {"epsilon_pos": 0.0, "epsilon_pos_pow": 0.0}
    return (
        loss_variant("paper", "ral"),
        loss_variant(NO_HILL, "ral", no_hill),
        loss_variant("no-polynomial", "ral", no_polynomial),
        loss_variant("no-hill-no-polynomial", "ral", no_hill | no_polynomial),
        loss_variant("released", "ral", {"form": "released"}),
    )


def _ral_sensitivity() -> tuple[ExperimentVariant, ...]:
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
        loss_variant(
            "-".join([parent, *(f"{k}{v:g}" for k, v in change.items())]), "ral", fixed | change, parent
        )
        for parent, fixed in parents.items()
        for change in changes
    )


class LossExperiment(Experiment):
    """Raises UserError for what does not fit."""

    what = "losses"
    heading = "loss"
    tuned = True
    train_set = True
    as_evaluated = False
    difference_last = True
    columns = (
        ("train − OOF", lambda row: signed(row[GAP])),
        ("step time", lambda row: f"{row['step_time']:.2f} ± {row['step_time_noise']:.2f}"),
        ("clipped", lambda row: "–" if row["clip_grad"] is None else f"{row['clipped_share']:.0%}"),
        ("lr", lambda row: f"{row['lr']:.3g}" + (f" ({row['lr_edge']})" if row["lr_edge"] else "")),
        ("clip", lambda row: "off" if row["clip_grad"] is None else f"{row['clip_grad']:g}"),
    )
    legend = (
        "Train − OOF: the same metric on as many rows that the models were trained on, minus that on the "
        "rows left out.",
        "Step time: a training step relative to the first row's, median ± half the interquartile range of "
        "interleaved rounds.",
        "Clipped: share of updates whose gradient was clipped. A learning rate marked lowest or highest lies "
        "at the edge of those tried.",
    )

    def __post_init__(self) -> None:
        if self.plan.ablation and self.plan.losses:
            raise UserError("--ablation compares one loss with its own parts: leave --losses out.")
        if not self.plan.rates or min(self.plan.rates) <= 0:
            raise UserError("Every one of --rates must be above 0.")
        super().__post_init__()

    @property
    def name(self) -> str:
        return self.plan.name or f"compare-{self.plan.ablation or self.what}"

    @cached_property
    def variants(self) -> tuple[ExperimentVariant, ...]:
        if self.plan.ablation:
            return ablation_variants(self.plan.ablation)
        return loss_variants(self.plan.losses or DEFAULT_LOSSES[self.challenge.task], self.challenge.task)

    def opening(self) -> str:
        n_folds, n_tuning = len(self.folds), len({variant.tuning for variant in self.variants})
        return (
            f"{self.title}: {len(self.variants)} variants, {self.plan.seeds} seeds, "
            f"folds {', '.join(map(str, self.folds))}: "
            f"{len(self.variants) * self.plan.seeds * n_folds} trainings and "
            f"{n_tuning * (len(set(self.plan.rates)) + 1)} more to tune, {self.n_workers} at a time"
        )

    def design(self, runs: Sequence[Run]) -> list[str]:
        (usual,) = super().design(runs)
        lrs = ", ".join(f"{self.base.optim.lr * rate:.3g}" for rate in sorted(set(self.plan.rates)))
        return [
            f"{usual} Learning rate (of {lrs}) and clipping were chosen per loss on fold {self.folds[0]} "
            f"with seed {TUNING_SEED}, which is not reported."
        ]

    def describe(self, run: Run) -> Row:
        loss = run.recipe.loss
        options = " ".join(f"{key}={value}" for key, value in loss.options.items())
        return {"loss": loss.name, "options": options}

    def measure(self, runs: Sequence[Run], settings: Mapping[str, Setting]) -> Mapping[str, Row]:
        times = step_times(self, [run for run in runs if run.seed == 0])
        clipped: dict[str, list[float]] = {}
        for run in runs:
            clipped.setdefault(run.variant.name, []).append(self._clipped_share(run))
        return {
            name: times[name]
            | {
                "clipped_share": float(np.mean(shares)),
                "lr": settings[name].lr,
                "lr_edge": settings[name].edge,
                "clip_grad": settings[name].clip_grad,
            }
            for name, shares in clipped.items()
        }

    def run_values(self, run: Run, score: RunScore) -> Row:
        optim = run.recipe.optim
        values = {GAP: score.beside[GAP], "clipped_share": self._clipped_share(run)}
        return values | {"lr": optim.lr, "clip_grad": optim.clip_grad}

    def _clipped_share(self, run: Run) -> float:
        """Share of a run's updates whose gradient was clipped; every epoch has as many updates as another."""
        logs = [pd.read_csv(self.fold_dir(run, fold) / "log.csv") for fold in self.folds]
        return float(np.mean([log["clipped_share"].mean() for log in logs]))

    def more_tables(self, result: TruthResult) -> list[PageTable]:
        if self.plan.ablation != "ral_sensitivity":
            return []
        metric, families = self.challenge.metric, self._settings(result).groupby("family", sort=False)
        columns = {"settings": families.size().map(str)}
        for key in (metric, GAP):
            columns |= {f"lowest {key}": families[key].min(), f"highest {key}": families[key].max()}
            columns[f"{key} sd over settings"] = families[key].std()
        columns[f"{metric} sd of a mean over seeds"] = np.sqrt(families["variance"].mean() / self.plan.seeds)
        table = pd.DataFrame(columns).map(lambda cell: cell if isinstance(cell, str) else number(cell))
        table = table.rename_axis("family").reset_index()
        caption = "How far the hyper-parameters move the score and the gap"
        return [PageTable(caption, list(table), table.to_numpy().tolist())]

    def _settings(self, result: TruthResult) -> pd.DataFrame:
        """A row per variant: its family, which is tuned alike, its setting, the metric and the gap."""
        family_of = {variant.name: variant.tuning for variant in self.variants}
        metric = self.challenge.metric
        return pd.DataFrame(
            {
                "family": family_of[row.name],
                "setting": row.name.removeprefix(family_of[row.name]).removeprefix("-") or "paper",
                metric: row.means[metric],
                GAP: row.beside[GAP],
                "variance": row.spreads[metric] ** 2,
            }
            for row in result.compared
        )

    def figures(self, runs: Sequence[Run], results: Sequence[TruthResult]) -> ExperimentFigures:
        """Curves over rows are of seed 0."""
        print("figures", flush=True)
        firsts = [run for run in runs if run.seed == 0]
        if len(firsts) > MOST_LINES:
            firsts = [run for run in firsts if run.variant.name == run.variant.tuning]
        shown = {run.variant for run in firsts}
        own = [run for run in runs if run.variant in shown]
        labels = Section("The labels", figures=label_figures(self, results[0].truth.labels))
        losses = Section("The losses", figures=[loss_curves(self, firsts)])
        caption = f"Difference to {self.reference.name}; the noise of seeds is not in these intervals."
        return ExperimentFigures(
            {
                result.truth.name: [
                    *differences(self, result, caption, by_verdict=False),
                    *self._sensitivity(result),
                    mean_probabilities(self, own, result),
                    *ranking_curves(self, firsts, result),
                ]
                for result in results
            },
            (losses, labels),
        )

    def _sensitivity(self, result: TruthResult) -> list[PageFigure]:
        if self.plan.ablation != "ral_sensitivity":
            return []
        settings = self._settings(result).rename(columns={GAP: "train − OOF"}).set_index("setting")
        shown = [self.challenge.metric, "train − OOF"]
        figure = settings_figure({name: own[shown] for name, own in settings.groupby("family", sort=False)})
        return [save(self, f"sensitivity_{result.truth.name}", figure, "Score and gap by setting.")]


EXPERIMENT = LossExperiment
