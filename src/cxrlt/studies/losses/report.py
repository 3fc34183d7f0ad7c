"""What a study found, written down: CSV, Markdown and one HTML page."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cxrlt.recipe import run_name
from cxrlt.reports.study_page import PageTable, Section, write_study_page
from cxrlt.studies.compare import TruthResult
from cxrlt.studies.losses.draw import StudyFigures, draw
from cxrlt.studies.losses.plan import TUNING_SEED, LossStudy
from cxrlt.studies.losses.score import score_run
from cxrlt.studies.losses.step_time import step_times
from cxrlt.studies.losses.tables import result_rows, result_table, run_rows, sensitivity_rows
from cxrlt.studies.losses.tune import Tuned
from cxrlt.studies.plan import Run
from cxrlt.studies.report import LEGEND as LEGEND_OF_ALL
from cxrlt.studies.report import detects, markdown_of, result_of, title_of
from cxrlt.studies.score import Truth
from cxrlt.studies.tables import (
    class_rows,
    class_table,
    number_table,
    write_csv,
)
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
    study: LossStudy, runs: Sequence[Run], truths: Sequence[Truth], settings: Mapping[str, Tuned]
) -> str:
    """Score the finished runs and write every table and figure. Returns the tables as Markdown."""
    times = step_times(study, [run for run in runs if run.seed == 0])
    results = [
        result_of(runs, truth, lambda run, truth=truth: score_run(study, run, truth)) for truth in truths
    ]
    rows = [row for result in results for row in result_rows(study, result, runs, settings, times)]
    folder, frame = study.results_dir, pd.DataFrame(rows)
    write_csv(folder / "results.csv", rows)
    write_csv(folder / "runs.csv", [row for result in results for row in run_rows(study, runs, result)])
    write_csv(folder / "classes.csv", [row for result in results for row in class_rows(result)])
    tables = {
        result.truth.name: _tables(study, result, frame[frame["truth"] == result.truth.name])
        for result in results
    }
    text = markdown_of(study, [_design(study)], tables, LEGEND)
    write_text(folder / "results.md", text + "\n")
    print("figures", flush=True)
    _page(study, results, tables, draw(study, runs, results))
    return f"{text}\n\nmore in {folder / 'report.html'}"


def _detects(study: LossStudy, result: TruthResult) -> str:
    return detects(study, result, {"": [row.name for row in result.compared]})


def _tables(study: LossStudy, result: TruthResult, own: pd.DataFrame) -> list[PageTable]:
    tables = [PageTable(_detects(study, result), *result_table(own, result.metrics))]
    if study.plan.ablation == "ral_sensitivity":
        spread = number_table(sensitivity_rows(study, result))
        tables.append(PageTable("How far the hyper-parameters move the score and the gap", *spread))
    return tables


def _page(
    study: LossStudy,
    results: Sequence[TruthResult],
    tables: Mapping[str, Sequence[PageTable]],
    figures: StudyFigures,
) -> None:
    sections = [Section("How it was done", (_design(study), *LEGEND))]
    for result in results:
        name = result.truth.name
        classes = PageTable("Class by class, means over seeds", *class_table(result))
        title = f"Scored against {name}"
        sections.append(Section(title, tables=(*tables[name], classes), figures=figures.results[name]))
    sections.append(Section("The losses", figures=figures.losses))
    sections.append(Section("The labels", figures=figures.labels))
    write_study_page(study.results_dir / "report.html", title_of(study), sections)


def _design(study: LossStudy) -> str:
    recipe, plan = study.base, study.plan
    name = run_name(plan.recipe or study.challenge.recipes[0])
    folds = ", ".join(map(str, study.folds))
    lrs = ", ".join(f"{recipe.optim.lr * rate:.3g}" for rate in sorted(set(plan.rates)))
    return (
        f"{name}: {recipe.model.backbone}, {recipe.data.size} px, {recipe.schedule.epochs} epochs; folds "
        f"{folds} of {study.split.n_folds}, {plan.seeds} seeds. Learning rate (of {lrs}) "
        f"and clipping were chosen per loss on fold {study.folds[0]} with seed {TUNING_SEED}, which is not "
        "reported."
    )
