"""What an experiment found, written down: CSV, Markdown and one HTML page."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cxrlt.experiments.differences import TruthResult
from cxrlt.experiments.losses.draw import ExperimentFigures, draw
from cxrlt.experiments.losses.plan import TUNING_SEED, LossExperiment
from cxrlt.experiments.losses.score import score_run
from cxrlt.experiments.losses.step_time import step_times
from cxrlt.experiments.losses.tables import result_rows, result_table, run_rows, sensitivity_rows
from cxrlt.experiments.losses.tune import Tuned
from cxrlt.experiments.plan import Run
from cxrlt.experiments.report import LEGEND as LEGEND_OF_ALL
from cxrlt.experiments.report import detects, markdown_of, result_of, title_of
from cxrlt.experiments.score import Truth
from cxrlt.experiments.tables import (
    class_rows,
    class_table,
    number_table,
    write_csv,
)
from cxrlt.recipe import run_name
from cxrlt.reports.experiment_page import PageTable, Section, write_experiment_page
from cxrlt.system.atomic_files import write_text

LEGEND = (
    *LEGEND_OF_ALL,
    "Train − OOF: the same metric on as many rows that the models were trained on, minus that on the rows "
    "left out.",
    "Step time: a training step relative to the first row's, median ± half the interquartile range of "
    "interleaved rounds.",
    "Clipped: share of updates whose gradient was clipped. A learning rate marked lowest or highest lies at "
    "the edge of those tried.",
)


def report(
    experiment: LossExperiment, runs: Sequence[Run], truths: Sequence[Truth], settings: Mapping[str, Tuned]
) -> str:
    """Score the finished runs and write every table and figure. Returns the tables as Markdown."""
    times = step_times(experiment, [run for run in runs if run.seed == 0])
    results = [
        result_of(runs, truth, lambda run, truth=truth: score_run(experiment, run, truth)) for truth in truths
    ]
    rows = [row for result in results for row in result_rows(experiment, result, runs, settings, times)]
    folder, frame = experiment.results_dir, pd.DataFrame(rows)
    write_csv(folder / "results.csv", rows)
    write_csv(folder / "runs.csv", [row for result in results for row in run_rows(experiment, runs, result)])
    write_csv(folder / "classes.csv", [row for result in results for row in class_rows(result)])
    tables = {
        result.truth.name: _tables(experiment, result, frame[frame["truth"] == result.truth.name])
        for result in results
    }
    text = markdown_of(experiment, [_design(experiment)], tables, LEGEND)
    write_text(folder / "results.md", text + "\n")
    print("figures", flush=True)
    _page(experiment, results, tables, draw(experiment, runs, results))
    return f"{text}\n\nmore in {folder / 'report.html'}"


def _detects(experiment: LossExperiment, result: TruthResult) -> str:
    return detects(experiment, result, {"": [row.name for row in result.compared]})


def _tables(experiment: LossExperiment, result: TruthResult, own: pd.DataFrame) -> list[PageTable]:
    tables = [PageTable(_detects(experiment, result), *result_table(own, result.metrics))]
    if experiment.plan.ablation == "ral_sensitivity":
        spread = number_table(sensitivity_rows(experiment, result))
        tables.append(PageTable("How far the hyper-parameters move the score and the gap", *spread))
    return tables


def _page(
    experiment: LossExperiment,
    results: Sequence[TruthResult],
    tables: Mapping[str, Sequence[PageTable]],
    figures: ExperimentFigures,
) -> None:
    sections = [Section("How it was done", (_design(experiment), *LEGEND))]
    for result in results:
        name = result.truth.name
        classes = PageTable("Class by class, means over seeds", *class_table(result))
        title = f"Scored against {name}"
        sections.append(Section(title, tables=(*tables[name], classes), figures=figures.results[name]))
    sections.append(Section("The losses", figures=figures.losses))
    sections.append(Section("The labels", figures=figures.labels))
    write_experiment_page(experiment.results_dir / "report.html", title_of(experiment), sections)


def _design(experiment: LossExperiment) -> str:
    recipe, plan = experiment.base, experiment.plan
    name = run_name(plan.recipe or experiment.challenge.recipes[0])
    folds = ", ".join(map(str, experiment.folds))
    lrs = ", ".join(f"{recipe.optim.lr * rate:.3g}" for rate in sorted(set(plan.rates)))
    return (
        f"{name}: {recipe.model.backbone}, {recipe.data.size} px, {recipe.schedule.epochs} epochs; folds "
        f"{folds} of {experiment.split.n_folds}, {plan.seeds} seeds. Learning rate (of {lrs}) "
        f"and clipping were chosen per loss on fold {experiment.folds[0]} with seed {TUNING_SEED}, "
        "which is not reported."
    )
