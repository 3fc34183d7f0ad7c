"""`cxrlt compare transfer`: what the initial weights bring, and which part of the network to train.

Every row has its own learning rate.
"""

from collections.abc import Callable, Mapping, Sequence

from cxrlt.errors import UserError
from cxrlt.experiments.costs import relative_costs
from cxrlt.experiments.differences import TruthResult
from cxrlt.experiments.experiment import TUNING_SEED, Experiment, ExperimentFigures, Row, Run
from cxrlt.experiments.figures import plot_differences
from cxrlt.experiments.tuning import SETTING_COLUMNS, SETTING_LEGEND
from cxrlt.experiments.variants import ExperimentVariant, Fields, OptimSettings, with_fields
from cxrlt.recipe import Recipe, override_recipe

FROZEN_LR_FACTOR = 10
"""A head on a frozen backbone is tried at this times the learning rates of a whole network: our choice."""
LAYER_DECAY = 0.75
"""As in the fine-tuning of masked autoencoders (He et al., CVPR 2022, appendix A)."""
LINEAR, ML_DECODER = ({"head": {"name": name}, "pool": "backbone"} for name in ("linear", "ml_decoder"))


def _frozen(head: Fields) -> Callable[[Recipe], Recipe]:
    """Return a function that trains only this head, on features of the frozen backbone."""
    fields = {
        "model": {"frozen": True, **head},
        "data": {"mix": {"kinds": ()}},
        "schedule": {"stages": ()},
    }

    def freeze(base: Recipe) -> Recipe:
        return override_recipe(
            base, {**fields, "optim": {"layer_decay": None, "lr": base.optim.lr * FROZEN_LR_FACTOR}}
        )

    return freeze


VARIANTS = (
    ExperimentVariant(
        "fine_tuned",
        "the whole network is trained",
        recipe=with_fields({"optim": {"layer_decay": None}}),
    ),
    ExperimentVariant(
        "random",
        "the same from random weights",
        recipe=with_fields({"model": {"pretrained": False}, "optim": {"layer_decay": None}}),
    ),
    ExperimentVariant(
        "layer_decay",
        f"each block has {LAYER_DECAY} times the learning rate of the next",
        recipe=with_fields({"optim": {"layer_decay": LAYER_DECAY}}),
    ),
    ExperimentVariant("frozen_linear", "a linear head on the frozen backbone", recipe=_frozen(LINEAR)),
    ExperimentVariant("frozen_decoder", "ML-Decoder on the frozen backbone", recipe=_frozen(ML_DECODER)),
)


class TransferExperiment(Experiment):
    """Comparison of initial weights and trained parts. Raises UserError for a recipe with random weights."""

    kind = "transfer"
    key_column = heading = "trained"
    needs_tuning = True
    variants = VARIANTS
    extra_columns = (("training time", lambda row: f"{row['training_time']:.2g} ×"), *SETTING_COLUMNS)
    legend = (SETTING_LEGEND,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.base.model.pretrained:
            raise UserError(f"{self.recipe_name} starts from random weights: choose another --recipe.")

    def describe_design(self, runs: Sequence[Run]) -> list[str]:
        """Return the paragraph about recipe and tuning."""
        (summary,) = super().describe_design(runs)
        return [
            f"{summary} Learning rate (one of {self.tuned_lrs}; for a head alone {FROZEN_LR_FACTOR} times "
            f"these) and clipping were chosen per row on fold {self.folds[0]} with seed {TUNING_SEED}, which "
            "is not reported. A head alone is trained without augmentation.",
            "Training time is relative to the first row.",
        ]

    def measured_columns(
        self, runs: Sequence[Run], settings: Mapping[str, OptimSettings]
    ) -> Mapping[str, Row]:
        """Return training time, learning rate and clipping."""
        return {name: row | settings[name].to_row() for name, row in relative_costs(self, runs).items()}

    def make_figures(self, runs: Sequence[Run], results: Sequence[TruthResult]) -> ExperimentFigures:
        """Plot the differences to the fine-tuned network."""
        caption = "Difference to the fine-tuned network. The intervals do not include the noise of seeds."
        figures = {r.truth.name: plot_differences(self, r, caption, by_verdict=True) for r in results}
        return ExperimentFigures(figures)


EXPERIMENT = TransferExperiment
