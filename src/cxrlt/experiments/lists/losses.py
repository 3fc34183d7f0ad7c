"""`cxrlt compare losses`: compare losses, or ablations of one loss, each with its own tuned learning rate."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from cxrlt.errors import UserError
from cxrlt.experiments import Ablation
from cxrlt.experiments.costs import load_or_measure_step_times
from cxrlt.experiments.differences import RunScore, TruthResult
from cxrlt.experiments.experiment import TUNING_SEED, Experiment, ExperimentFigures, Row, Run
from cxrlt.experiments.figures import (
    plot_classes,
    plot_differences,
    plot_labels,
    plot_loss_curves,
    plot_mean_probabilities,
    plot_ranking_curves,
    save_experiment_figure,
)
from cxrlt.experiments.report import format_number, format_signed
from cxrlt.experiments.score import TRAIN_OOF_GAP
from cxrlt.experiments.tuning import SETTING_COLUMNS, SETTING_LEGEND
from cxrlt.experiments.variants import ExperimentVariant, OptimSettings, require_known_names
from cxrlt.heads import cosine_heads
from cxrlt.losses import LOSSES, loss_names
from cxrlt.recipe import HeadConfig, LossConfig, Recipe
from cxrlt.reports.loss_figures import sensitivity_figure
from cxrlt.reports.page import PageFigure, PageTable, Section
from cxrlt.training.run_paths import LOG

Option = float | bool | str | None
Options = Mapping[str, Option]
DEFAULT_LOSSES = {
    "multi_label": ("bce", "asl", "ral", "class_aware"),
    "single_label": ("ce", "ldam", "balanced_softmax", "lmf", "ral"),
}
WITH_HILL, WITHOUT_HILL = "with-hill", "no-hill"
MAX_CURVES = 8  # per panel; with more variants, draw only those whose tuning the others share


def make_loss_variant(
    name: str, loss: str, options: Options | None = None, tuned_as: str = ""
) -> ExperimentVariant:
    """Return the variant that trains with this loss and these options."""
    return ExperimentVariant(name, recipe=_with_loss(loss, options or {}), tuned_as=tuned_as)


def _with_loss(name: str, options: Options) -> Callable[[Recipe], Recipe]:
    """Return a function that changes only a recipe's loss, and the head of losses that need a cosine head."""

    def with_loss(base: Recipe) -> Recipe:
        loss = LossConfig(name=name, options=dict(options), bias_init=base.loss.bias_init)
        head = {"head": HeadConfig(name=cosine_heads()[0])} if LOSSES[name].cosines == "needed" else {}
        model = base.model.model_copy(update=head)
        return base.model_copy(update={"loss": loss, "model": model})

    return with_loss


def loss_variants(losses: Sequence[str], task: str) -> tuple[ExperimentVariant, ...]:
    """Return the losses with their default options.

    Raises UserError, with the names that are possible, for a loss that is unknown or does not fit `task`.
    """
    known = loss_names() if task == "single_label" else loss_names("multi_label")
    require_known_names("--losses", losses, known, "the losses for this challenge are")
    return tuple(make_loss_variant(name, name) for name in losses)


def ablation_variants(ablation: Ablation) -> tuple[ExperimentVariant, ...]:
    """Return the complete method, then the method without each of its parts."""
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
    return tuple(make_loss_variant(name, "class_aware", full | options) for name, options in changed.items())


def _ral() -> tuple[ExperimentVariant, ...]:
    """Return RAL without its parts. epsilon = 0 removes the polynomial: only the cross-entropy is left."""
    no_hill: dict[str, Option] = {"hill_lambda": None}
    no_polynomial: dict[str, Option] = {"epsilon_pos": 0.0, "epsilon_pos_pow": 0.0}
    return (
        make_loss_variant("paper", "ral"),
        make_loss_variant(WITHOUT_HILL, "ral", no_hill),
        make_loss_variant("no-polynomial", "ral", no_polynomial),
        make_loss_variant("no-hill-no-polynomial", "ral", no_hill | no_polynomial),
        make_loss_variant("released", "ral", {"form": "released"}),
    )


def _ral_sensitivity() -> tuple[ExperimentVariant, ...]:
    """Return RAL with one changed hyper-parameter each, with and without the Hill factor.

    All variants of a family share the learning rate and clipping of its first variant.
    """
    changes: list[dict[str, Option]] = [
        {},
        {"gamma_neg": 2.0},
        {"gamma_neg": 6.0},
        {"clip": 0.0},
        {"clip": 0.2},
        {"epsilon_pos_pow": -1.0},
        {"epsilon_pos_pow": 0.0},
    ]
    parents: dict[str, dict[str, Option]] = {WITH_HILL: {}, WITHOUT_HILL: {"hill_lambda": None}}
    return tuple(
        make_loss_variant(
            "-".join([parent, *(f"{k}{v:g}" for k, v in change.items())]), "ral", fixed | change, parent
        )
        for parent, fixed in parents.items()
        for change in changes
    )


class LossExperiment(Experiment):
    """Comparison of losses. Raises UserError for flags that contradict each other or the challenge."""

    kind = "losses"
    heading = "loss"
    needs_tuning = True
    predicts_train_set = True
    uses_final_logits = False
    difference_last = True
    extra_columns = (
        ("train − OOF", lambda row: format_signed(row[TRAIN_OOF_GAP])),
        ("step time", lambda row: f"{row['step_time']:.2f} ± {row['step_time_noise']:.2f}"),
        ("clipped", lambda row: "–" if row["clip_grad"] is None else f"{row['clipped_share']:.0%}"),
        *SETTING_COLUMNS,
    )
    legend = (
        "Train − OOF: the same metric on as many rows of the training set, minus the metric on out-of-fold "
        "rows.",
        "Step time: time of a training step relative to the first row's, median ± half the interquartile "
        "range of interleaved rounds.",
        f"Clipped: share of updates with a clipped gradient. {SETTING_LEGEND}",
    )

    def __post_init__(self) -> None:
        if self.plan.ablation and self.plan.losses:
            raise UserError("--ablation compares variants of one loss: remove --losses.")
        super().__post_init__()

    @property
    def name(self) -> str:
        """The given name, or compare- and the ablation or losses."""
        return self.plan.name or f"compare-{self.plan.ablation or self.kind}"

    @cached_property
    def variants(self) -> tuple[ExperimentVariant, ...]:
        """The losses or the variants of the ablation, the reference first."""
        if self.plan.ablation:
            return ablation_variants(self.plan.ablation)
        return loss_variants(self.plan.losses or DEFAULT_LOSSES[self.challenge.task], self.challenge.task)

    def start_message(self) -> str:
        """Return the number of trainings, including those for tuning."""
        if not self.needs_tuning:
            return super().start_message()
        n_folds, n_tuning = len(self.folds), len({variant.tuning_name for variant in self.variants})
        return (
            f"{self.title}: {len(self.variants)} variants, {self.plan.seeds} seeds, "
            f"folds {', '.join(map(str, self.folds))}: "
            f"{len(self.variants) * self.plan.seeds * n_folds} trainings and "
            f"{n_tuning * (len(set(self.plan.rates)) + 1)} for tuning, {self.n_workers} at a time"
        )

    def describe_design(self, runs: Sequence[Run]) -> list[str]:
        """Return the paragraph about recipe, learning rates and tuning."""
        (summary,) = super().describe_design(runs)
        if not self.needs_tuning:
            return [f"{summary} Learning rate and clipping are those of the recipe for every loss."]
        return [
            f"{summary} Learning rate (one of {self.tuned_lrs}) and clipping were chosen per loss on fold "
            f"{self.folds[0]} with seed {TUNING_SEED}, which is not reported."
        ]

    def variant_columns(self, run: Run) -> Row:
        """Return the loss and its options."""
        loss = run.recipe.loss
        options = " ".join(f"{key}={value}" for key, value in loss.options.items())
        return {"loss": loss.name, "options": options}

    def measured_columns(
        self, runs: Sequence[Run], settings: Mapping[str, OptimSettings]
    ) -> Mapping[str, Row]:
        """Return step time, share of clipped updates, learning rate and clipping."""
        times = load_or_measure_step_times(self, [run for run in runs if run.seed == 0])
        clipped: dict[str, list[float]] = {}
        for run in runs:
            clipped.setdefault(run.variant.name, []).append(self._clipped_share(run))
        return {
            name: {**times[name], "clipped_share": float(np.mean(shares)), **settings[name].to_row()}
            for name, shares in clipped.items()
        }

    def run_columns(self, run: Run, score: RunScore) -> Row:
        """Return train − OOF gap, share of clipped updates, learning rate and clipping."""
        optim = run.recipe.optim
        values = {TRAIN_OOF_GAP: score.extra_values[TRAIN_OOF_GAP], "clipped_share": self._clipped_share(run)}
        return values | {"lr": optim.lr, "clip_grad": optim.clip_grad}

    def _clipped_share(self, run: Run) -> float:
        """Return the share of a run's updates with a clipped gradient; epochs have equally many updates."""
        logs = [pd.read_csv(self.fold_dir(run, fold) / LOG) for fold in self.folds]
        return float(np.mean([log["clipped_share"].mean() for log in logs]))

    def extra_tables(self, result: TruthResult) -> list[PageTable]:
        """Return the summary of the sensitivity ablation."""
        if self.plan.ablation != "ral_sensitivity":
            return []
        metric, families = self.challenge.metric, self._settings(result).groupby("family", sort=False)
        columns: dict[str, pd.Series] = {"settings": families.size().map(str)}
        for key in (metric, TRAIN_OOF_GAP):
            columns |= {f"lowest {key}": families[key].min(), f"highest {key}": families[key].max()}
            columns[f"{key} sd over settings"] = families[key].std()
        columns[f"{metric} sd of a mean over seeds"] = np.sqrt(families["variance"].mean() / self.plan.seeds)
        table = pd.DataFrame(columns).map(lambda cell: cell if isinstance(cell, str) else format_number(cell))
        table = table.rename_axis("family").reset_index()
        caption = "Effect of the hyper-parameters on the score and the train − OOF gap"
        return [PageTable(caption, list(table.columns), table.to_numpy().tolist())]

    def _settings(self, result: TruthResult) -> pd.DataFrame:
        """Return a row per variant: family (with the same tuning), setting, metric and train − OOF gap."""
        family_of = {variant.name: variant.tuning_name for variant in self.variants}
        metric = self.challenge.metric
        return pd.DataFrame(
            {
                "family": family_of[row.name],
                "setting": row.name.removeprefix(family_of[row.name]).removeprefix("-") or "paper",
                metric: row.means[metric],
                TRAIN_OOF_GAP: row.extra_values[TRAIN_OOF_GAP],
                "variance": row.seed_stds[metric] ** 2,
            }
            for row in result.variant_results
        )

    def make_figures(self, runs: Sequence[Run], results: Sequence[TruthResult]) -> ExperimentFigures:
        """Plot labels, loss curves, differences, mean probabilities and, for seed 0, ROC and PR curves."""
        print("figures", flush=True)
        seed0_runs = [run for run in runs if run.seed == 0]
        if len(seed0_runs) > MAX_CURVES:
            seed0_runs = [run for run in seed0_runs if run.variant.name == run.variant.tuning_name]
        shown_variants = {run.variant for run in seed0_runs}
        shown_runs = [run for run in runs if run.variant in shown_variants]
        labels = Section("The labels", figures=plot_labels(self, results[0].truth.labels))
        losses = Section("The losses", figures=[plot_loss_curves(self, seed0_runs)])
        caption = f"Difference to {self.reference.name}; the intervals do not include the noise of seeds."
        return ExperimentFigures(
            {
                result.truth.name: [
                    *plot_differences(self, result, caption, by_verdict=False),
                    *self._sensitivity(result),
                    *plot_classes(self, shown_runs, result),
                    plot_mean_probabilities(self, shown_runs, result),
                    *plot_ranking_curves(self, seed0_runs, result),
                ]
                for result in results
            },
            (losses, labels),
        )

    def _sensitivity(self, result: TruthResult) -> list[PageFigure]:
        if self.plan.ablation != "ral_sensitivity":
            return []
        settings = self._settings(result).rename(columns={TRAIN_OOF_GAP: "train − OOF"}).set_index("setting")
        columns = [self.challenge.metric, "train − OOF"]
        families = {str(name): rows[columns] for name, rows in settings.groupby("family", sort=False)}
        figure = sensitivity_figure(families)
        return [
            save_experiment_figure(
                self, f"sensitivity_{result.truth.name}", figure, "Score and train − OOF gap by setting."
            )
        ]


EXPERIMENT = LossExperiment
