"""The tables of an experiment of tricks, as data frames of plain numbers and as text."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from cxrlt.experiments.differences import TruthResult
from cxrlt.experiments.plan import Run
from cxrlt.experiments.tables import Row, compared_values, difference_of, with_spread
from cxrlt.experiments.tricks.cost import Cost
from cxrlt.experiments.tricks.registry import TRICKS


def run_rows(runs: Sequence[Run], result: TruthResult) -> list[Row]:
    """One row per run."""
    return [
        {
            "truth": result.truth.name,
            "trick": run.variant,
            "seed": run.seed,
            **{key: drawn.value for key, drawn in result.scores[run.name].metrics.items()},
        }
        for run in runs
    ]


def result_rows(result: TruthResult, runs: Sequence[Run], costs: Mapping[str, Cost]) -> list[Row]:
    """One row per trick, BASE first, with every number that the texts show and more."""
    rows = []
    for row in result.compared:
        trick = TRICKS.get(row.name)
        rows.append(
            {
                "truth": result.truth.name,
                "trick": row.name,
                "what": trick.about if trick else "",
                "stage": trick.stage if trick else "",
                "seeds": sum(run.variant == row.name for run in runs),
                **compared_values(row),
                "training_time": costs[row.name].training,
                "passes": costs[row.name].passes,
            }
        )
    return rows


def result_table(results: pd.DataFrame, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of one truth's results, for a person to read."""
    first, metric = results["trick"].iloc[0], metrics[0]
    headings = ["trick", *metrics[:1], f"{metric} minus {first} [95 %]", "verdict", *metrics[1:]]
    headings += ["training time", "passes"]
    rows = []
    for row in results.to_dict("records"):
        difference = "" if row["trick"] == first else difference_of(row, metric)
        cells = [with_spread(row[key], row[f"{key} sd over seeds"]) for key in metrics]
        rows.append(
            [
                row["trick"],
                cells[0],
                difference,
                row["verdict"],
                *cells[1:],
                _times(row["training_time"]),
                _times(row["passes"]),
            ]
        )
    return headings, rows


def _times(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g} ×"
