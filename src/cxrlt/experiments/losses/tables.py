"""The tables of an experiment of losses, as data frames of plain numbers and as text."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cxrlt.experiments.differences import TruthResult
from cxrlt.experiments.losses.plan import LossExperiment
from cxrlt.experiments.losses.score import GAP
from cxrlt.experiments.losses.step_time import StepTime
from cxrlt.experiments.losses.tune import Tuned
from cxrlt.experiments.plan import Run
from cxrlt.experiments.tables import Row, compared_values, difference_of, signed, with_spread


def run_rows(experiment: LossExperiment, runs: Sequence[Run], result: TruthResult) -> list[Row]:
    """One row per run and truth."""
    scored = [(run, result.scores[run.name]) for run in runs]
    return [
        {
            "truth": result.truth.name,
            "variant": run.variant,
            "seed": run.seed,
            **{key: drawn.value for key, drawn in score.metrics.items()},
            "train_minus_oof": score.beside[GAP],
            "clipped_share": clipped_share(experiment, run),
            "lr": run.recipe.optim.lr,
            "clip_grad": run.recipe.optim.clip_grad,
        }
        for run, score in scored
    ]


def result_rows(
    experiment: LossExperiment,
    result: TruthResult,
    runs: Sequence[Run],
    settings: Mapping[str, Tuned],
    times: Mapping[str, StepTime],
) -> list[Row]:
    """One row per variant and truth, with every number that the texts show and more."""
    rows = []
    for row in result.compared:
        own = [run for run in runs if run.variant == row.name]
        variant, setting, time = experiment.variant_of(row.name), settings[row.name], times[row.name]
        rows.append(
            {
                "truth": result.truth.name,
                "variant": row.name,
                "loss": variant.loss,
                "options": " ".join(f"{key}={value}" for key, value in variant.options.items()),
                "seeds": len(own),
                **compared_values(row),
                "train_minus_oof": row.beside[GAP],
                "step_time": time.ratio,
                "step_time_noise": time.noise,
                "clipped_share": float(np.mean([clipped_share(experiment, run) for run in own])),
                "lr": setting.lr,
                "lr_edge": setting.edge,
                "clip_grad": setting.clip_grad,
            }
        )
    return rows


def clipped_share(experiment: LossExperiment, run: Run) -> float:
    """Share of a run's updates whose gradient was clipped; every epoch has as many updates as another."""
    logs = [pd.read_csv(experiment.fold_dir(run, fold) / "log.csv") for fold in experiment.folds]
    return float(np.mean([log["clipped_share"].mean() for log in logs]))


def result_table(results: pd.DataFrame, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of one truth's results, for a person to read."""
    first, metric = results["variant"].iloc[0], metrics[0]
    headings = ["loss", *metrics, f"{metric} minus {first} [95 %]", "verdict", "train − OOF", "step time"]
    headings += ["clipped", "lr", "clip"]
    rows = []
    for row in results.to_dict("records"):
        difference = "" if row["variant"] == first else difference_of(row, metric)
        edge = f" ({row['lr_edge']})" if isinstance(row["lr_edge"], str) and row["lr_edge"] else ""
        rows.append(
            [
                str(row["variant"]),
                *(with_spread(row[key], row[f"{key} sd over seeds"]) for key in metrics),
                difference,
                row["verdict"] if isinstance(row["verdict"], str) else "",
                signed(row["train_minus_oof"]),
                f"{row['step_time']:.2f} ± {row['step_time_noise']:.2f}",
                "–" if pd.isna(row["clip_grad"]) else f"{row['clipped_share']:.0%}",
                f"{row['lr']:.3g}{edge}",
                "off" if pd.isna(row["clip_grad"]) else f"{row['clip_grad']:g}",
            ]
        )
    return headings, rows


def sensitivity_rows(experiment: LossExperiment, result: TruthResult) -> list[Row]:
    """How far the hyper-parameters move score and gap, with and without the Hill factor."""
    metric = experiment.challenge.metric
    parent = {variant.name: variant.tuning for variant in experiment.variants}
    rows = []
    for name in dict.fromkeys(parent.values()):
        own = [row for row in result.compared if parent[row.name] == name]
        scores, gaps = [row.means[metric] for row in own], [row.beside[GAP] for row in own]
        rows.append(
            {
                "truth": result.truth.name,
                "family": name,
                "settings": len(own),
                f"lowest {metric}": min(scores),
                f"highest {metric}": max(scores),
                f"{metric} sd over settings": float(np.std(scores, ddof=1)) if len(own) > 1 else math.nan,
                "lowest train_minus_oof": min(gaps),
                "highest train_minus_oof": max(gaps),
                "train_minus_oof sd over settings": (
                    float(np.std(gaps, ddof=1)) if len(own) > 1 else math.nan
                ),
                f"{metric} sd of a mean over seeds": math.sqrt(
                    np.mean([row.spreads[metric] ** 2 for row in own]) / experiment.plan.seeds
                ),
            }
        )
    return rows
