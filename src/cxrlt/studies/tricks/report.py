"""What a study of tricks found, written down: CSV, Markdown and one HTML page."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cxrlt.recipe import run_name
from cxrlt.reports.figures import save_figure
from cxrlt.reports.loss_figures import differences_figure
from cxrlt.reports.palette import GREEN, GREY, VERMILLION
from cxrlt.reports.study_page import PageFigure, PageTable, Section, write_study_page
from cxrlt.studies.compare import WITHIN, TruthResult
from cxrlt.studies.plan import Run
from cxrlt.studies.report import LEGEND as LEGEND_OF_ALL
from cxrlt.studies.report import detects, markdown_of, result_of, title_of
from cxrlt.studies.score import Truth
from cxrlt.studies.tables import class_rows, class_table, write_csv
from cxrlt.studies.tricks.cost import WALL, clock_of, costs
from cxrlt.studies.tricks.plan import TrickStudy
from cxrlt.studies.tricks.registry import BASE, TRICKS, Stage
from cxrlt.studies.tricks.score import read_predicted, score_run
from cxrlt.studies.tricks.tables import result_rows, result_table, run_rows
from cxrlt.system.atomic_files import write_text

KINDS: Mapping[Stage, str] = {
    "trained": "for a training of its own",
    "second stage": "for a second stage",
    "prediction": "for another prediction",
    "ensemble": "for an ensemble",
}
COLOURS = {"higher": GREEN, "lower": VERMILLION, WITHIN: GREY}
LEGEND = (
    *LEGEND_OF_ALL,
    "Second stages, predictions and ensembles are computed from BASE's own models: for them 2 s² is the "
    "variance between seeds of the difference to BASE with the same seed, averaged over a kind's tricks.",
    "mF1@.5 and local ECE (15 bins, class by class) are of probabilities, all others of their order.",
    "Passes: predictions of a network per image, all members of an ensemble together.",
)


def report(study: TrickStudy, runs: Sequence[Run], truths: Sequence[Truth]) -> tuple[str, dict[str, str]]:
    """Score the finished runs and write every table and figure.

    Returns the tables as Markdown, and of the runs that cannot be scored why.
    """
    predicted, unscored = read_predicted(study, runs)
    rows_of = {run.variant for run in runs if run.name in unscored}
    runs = [run for run in runs if run.variant not in rows_of]
    if not any(run.variant == BASE for run in runs):
        return "", unscored
    names = {run.variant for run in runs}
    kinds = {t.name: t.stage for t in study.tricks if t.stage != "trained" and t.name in names}
    results = [
        result_of(runs, truth, lambda run, truth=truth: score_run(study, predicted[run.name], truth), kinds)
        for truth in truths
    ]
    return _write(study, runs, results), unscored


def left_out_lines(study: TrickStudy) -> list[str]:
    """A line per trick that nobody asked for by name and that does not fit."""
    return [f"{name} is left out: {why}." for name, why in study.left_out.items() if not study.plan.tricks]


def _write(study: TrickStudy, runs: Sequence[Run], results: Sequence[TruthResult]) -> str:
    folder, cost = study.results_dir, costs(study, runs)
    rows = [row for result in results for row in result_rows(result, runs, cost)]
    write_csv(folder / "results.csv", rows)
    write_csv(folder / "runs.csv", [row for result in results for row in run_rows(runs, result)])
    write_csv(folder / "classes.csv", [row for result in results for row in class_rows(result)])
    frame = pd.DataFrame(rows)
    tables = {
        result.truth.name: [
            PageTable(
                _detects(study, result),
                *result_table(frame[frame["truth"] == result.truth.name], result.metrics),
            )
        ]
        for result in results
    }
    text = markdown_of(study, [*_design(study), *left_out_lines(study)], tables, LEGEND)
    write_text(folder / "results.md", text + "\n")
    _page(study, results, tables)
    return f"{text}\n\nmore in {folder / 'report.html'}"


def _detects(study: TrickStudy, result: TruthResult) -> str:
    kinds: dict[str, list[str]] = {}
    for row in result.compared[1:]:
        kinds.setdefault(KINDS[TRICKS[row.name].stage], []).append(row.name)
    return detects(study, result, kinds)


def _page(
    study: TrickStudy, results: Sequence[TruthResult], tables: Mapping[str, Sequence[PageTable]]
) -> None:
    about = PageTable("The tricks", ["trick", "what"], [[trick.name, trick.about] for trick in study.tricks])
    paragraphs = (*_design(study), *left_out_lines(study), *LEGEND)
    sections = [Section("How it was done", paragraphs, (about,))]
    for result in results:
        name = result.truth.name
        classes = PageTable("Class by class, means over seeds", *class_table(result))
        figures = _differences(study, result)
        sections.append(Section(f"Scored against {name}", (), (*tables[name], classes), figures))
    write_study_page(study.results_dir / "report.html", title_of(study), sections)


def _differences(study: TrickStudy, result: TruthResult) -> list[PageFigure]:
    metric, others = study.challenge.metric, result.compared[1:]
    if not others:
        return []
    figure = differences_figure(
        {row.name: row.differences[metric] for row in others},
        metric,
        BASE,
        {row.name: COLOURS[row.verdict] for row in others},
    )
    path = study.results_dir / "figures" / f"differences_{result.truth.name}.png"
    save_figure(figure, path)
    caption = (
        "Difference to BASE; the noise of seeds is not in these intervals, but in the verdict: green higher, "
        "red lower, grey within noise."
    )
    return [PageFigure(caption, path)]


def _design(study: TrickStudy) -> list[str]:
    recipe, plan = study.base, study.plan
    name = run_name(plan.recipe or study.challenge.recipes[0])
    return [
        f"BASE is {name}: {recipe.model.backbone}, {recipe.data.size} px, {recipe.schedule.epochs} epochs, "
        f"every image predicted as it is and alone. Folds {', '.join(map(str, study.folds))} of "
        f"{study.split.n_folds}; seeds: {plan.seeds}. "
        "Each trick is alone, and nothing was tuned for it: every run has BASE's learning rate.",
        _timing(study),
    ]


def _timing(study: TrickStudy) -> str:
    clock = clock_of(study)
    rough = f", with up to {study.n_workers} trainings side by side and as rough as that is"
    return (
        f"Training time: {clock} seconds as a multiple of BASE's with the same fold and seed, median over "
        "folds and seeds, and with what a trick needs first: BASE for a second stage, all members for an "
        f"ensemble{rough if clock == WALL else ''}."
    )
