"""The tables of a study, as data frames of plain numbers and as text."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt.artifacts import atomic_path
from cxrlt.studies.compare import TruthResult
from cxrlt.studies.plan import Run, Study
from cxrlt.studies.step_time import StepTime
from cxrlt.studies.tune import Tuned

Row = dict[str, object]


def run_rows(study: Study, runs: Sequence[Run], result: TruthResult) -> list[Row]:
    """One row per run and truth."""
    scored = [(run, result.scores[run.name]) for run in runs]
    return [
        {
            "truth": result.truth.name,
            "variant": run.variant.name,
            "seed": run.seed,
            **{key: drawn.value for key, drawn in score.metrics.items()},
            "train_minus_oof": score.gap,
            "clipped_share": clipped_share(study, run),
            "lr": run.recipe.optim.lr,
            "clip_grad": run.recipe.optim.clip_grad,
        }
        for run, score in scored
    ]


def result_rows(
    study: Study,
    result: TruthResult,
    runs: Sequence[Run],
    settings: Mapping[str, Tuned],
    times: Mapping[str, StepTime],
) -> list[Row]:
    """One row per variant and truth, with every number that the texts show and more."""
    rows = []
    for row in result.compared:
        own = [run for run in runs if run.variant.name == row.name]
        metrics: Row = {}
        for key, mean in row.means.items():
            metrics |= {key: mean, f"{key} sd over seeds": row.spreads[key]}
        for key, interval in row.differences.items():
            metrics |= {f"{key} difference": interval.value}
            metrics |= {f"{key} difference low": interval.low, f"{key} difference high": interval.high}
        setting, time = settings[row.name], times[row.name]
        rows.append(
            {
                "truth": result.truth.name,
                "variant": row.name,
                "loss": own[0].variant.loss,
                "options": " ".join(f"{key}={value}" for key, value in own[0].variant.options.items()),
                "seeds": len(own),
                **metrics,
                "standard error of the difference": row.error,
                "verdict": row.verdict,
                "train_minus_oof": row.gap,
                "step_time": time.ratio,
                "step_time_noise": time.noise,
                "clipped_share": float(np.mean([clipped_share(study, run) for run in own])),
                "lr": setting.lr,
                "lr_edge": setting.edge,
                "clip_grad": setting.clip_grad,
            }
        )
    return rows


def clipped_share(study: Study, run: Run) -> float:
    """Share of a run's updates whose gradient was clipped; every epoch has as many updates as another."""
    logs = [pd.read_csv(study.fold_dir(run, fold) / "log.csv") for fold in study.folds]
    return float(np.mean([log["clipped_share"].mean() for log in logs]))


def class_rows(result: TruthResult) -> list[Row]:
    """One row per variant, truth and class: means over seeds."""
    return [
        {"truth": result.truth.name, "variant": row.name, "class": name, **values}
        for row in result.compared
        for name, values in row.classes.to_dict("index").items()
    ]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def result_table(results: pd.DataFrame, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of one truth's results, for a person to read."""
    first, metric = results["variant"].iloc[0], metrics[0]
    headings = ["loss", *metrics, f"{metric} minus {first} [95 %]", "verdict", "train − OOF", "step time"]
    headings += ["clipped", "lr", "clip"]
    rows = []
    for row in results.to_dict("records"):
        difference = ""
        if row["variant"] != first:
            low, high = row[f"{metric} difference low"], row[f"{metric} difference high"]
            difference = f"{signed(row[f'{metric} difference'])} [{signed(low)}, {signed(high)}]"
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


def sensitivity_rows(study: Study, result: TruthResult) -> list[Row]:
    """How far the hyper-parameters move score and gap, with and without the Hill factor."""
    metric = study.challenge.metric
    parent = {variant.name: variant.tuning for variant in study.variants}
    rows = []
    for name in dict.fromkeys(parent.values()):
        own = [row for row in result.compared if parent[row.name] == name]
        scores, gaps = [row.means[metric] for row in own], [row.gap for row in own]
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
                    np.mean([row.spreads[metric] ** 2 for row in own]) / study.plan.seeds
                ),
            }
        )
    return rows


def class_table(result: TruthResult) -> tuple[list[str], list[list[str]]]:
    """The first figure of every class, the most frequent first, a column per variant."""
    names = list(result.truth.labels.sum().sort_values(ascending=False, kind="stable").index)
    figure = result.compared[0].classes.columns[0]
    positives = (result.truth.labels == 1).sum()
    rows = [
        [name, f"{positives[name]:,}", *(number(row.classes.loc[name, figure]) for row in result.compared)]
        for name in names
    ]
    return [f"{figure} of class", "positives", *(row.name for row in result.compared)], rows


def number_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of rows of numbers and words, the truth left out."""
    headings = [key for key in rows[0] if key != "truth"]
    cells = [
        [number(row[key]) if isinstance(row[key], float) else str(row[key]) for key in headings]
        for row in rows
    ]
    return headings, cells


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def with_spread(value: float, spread: float) -> str:
    return number(value) if math.isnan(spread) else f"{number(value)} ± {number(spread)}"
