"""What an experiment of tricks found, written down: CSV, Markdown and one HTML page."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cxrlt.experiments.differences import WITHIN, TruthResult
from cxrlt.experiments.plan import Run
from cxrlt.experiments.report import LEGEND as LEGEND_OF_ALL
from cxrlt.experiments.report import detects, markdown_of, result_of, title_of
from cxrlt.experiments.score import Truth
from cxrlt.experiments.tables import class_rows, class_table, write_csv
from cxrlt.experiments.tricks.cost import WALL, clock_of, costs
from cxrlt.experiments.tricks.plan import TrickExperiment
from cxrlt.experiments.tricks.registry import BASE, TRICKS, Stage
from cxrlt.experiments.tricks.score import read_predicted, score_run
from cxrlt.experiments.tricks.tables import result_rows, result_table, run_rows
from cxrlt.recipe import run_name
from cxrlt.reports.experiment_page import PageFigure, PageTable, Section, write_experiment_page
from cxrlt.reports.figures import save_figure
from cxrlt.reports.loss_figures import differences_figure
from cxrlt.reports.palette import GREEN, GREY, VERMILLION
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


def report(
    experiment: TrickExperiment, runs: Sequence[Run], truths: Sequence[Truth]
) -> tuple[str, dict[str, str]]:
    """Score the finished runs and write every table and figure.

    Returns the tables as Markdown, and of the runs that cannot be scored why.
    """
    predicted, unscored = read_predicted(experiment, runs)
    rows_of = {run.variant for run in runs if run.name in unscored}
    runs = [run for run in runs if run.variant not in rows_of]
    if not any(run.variant == BASE for run in runs):
        return "", unscored
    names = {run.variant for run in runs}
    kinds = {t.name: t.stage for t in experiment.tricks if t.stage != "trained" and t.name in names}
    results = [
        result_of(
            runs, truth, lambda run, truth=truth: score_run(experiment, predicted[run.name], truth), kinds
        )
        for truth in truths
    ]
    return _write(experiment, runs, results), unscored


def left_out_lines(experiment: TrickExperiment) -> list[str]:
    """A line per trick that nobody asked for by name and that does not fit."""
    return [
        f"{name} is left out: {why}."
        for name, why in experiment.left_out.items()
        if not experiment.plan.tricks
    ]


def _write(experiment: TrickExperiment, runs: Sequence[Run], results: Sequence[TruthResult]) -> str:
    folder, cost = experiment.results_dir, costs(experiment, runs)
    rows = [row for result in results for row in result_rows(result, runs, cost)]
    write_csv(folder / "results.csv", rows)
    write_csv(folder / "runs.csv", [row for result in results for row in run_rows(runs, result)])
    write_csv(folder / "classes.csv", [row for result in results for row in class_rows(result)])
    frame = pd.DataFrame(rows)
    tables = {
        result.truth.name: [
            PageTable(
                _detects(experiment, result),
                *result_table(frame[frame["truth"] == result.truth.name], result.metrics),
            )
        ]
        for result in results
    }
    text = markdown_of(experiment, [*_design(experiment), *left_out_lines(experiment)], tables, LEGEND)
    write_text(folder / "results.md", text + "\n")
    _page(experiment, results, tables)
    return f"{text}\n\nmore in {folder / 'report.html'}"


def _detects(experiment: TrickExperiment, result: TruthResult) -> str:
    kinds: dict[str, list[str]] = {}
    for row in result.compared[1:]:
        kinds.setdefault(KINDS[TRICKS[row.name].stage], []).append(row.name)
    return detects(experiment, result, kinds)


def _page(
    experiment: TrickExperiment, results: Sequence[TruthResult], tables: Mapping[str, Sequence[PageTable]]
) -> None:
    about = PageTable(
        "The tricks", ["trick", "what"], [[trick.name, trick.about] for trick in experiment.tricks]
    )
    paragraphs = (*_design(experiment), *left_out_lines(experiment), *LEGEND)
    sections = [Section("How it was done", paragraphs, (about,))]
    for result in results:
        name = result.truth.name
        classes = PageTable("Class by class, means over seeds", *class_table(result))
        figures = _differences(experiment, result)
        sections.append(Section(f"Scored against {name}", (), (*tables[name], classes), figures))
    write_experiment_page(experiment.results_dir / "report.html", title_of(experiment), sections)


def _differences(experiment: TrickExperiment, result: TruthResult) -> list[PageFigure]:
    metric, others = experiment.challenge.metric, result.compared[1:]
    if not others:
        return []
    figure = differences_figure(
        {row.name: row.differences[metric] for row in others},
        metric,
        BASE,
        {row.name: COLOURS[row.verdict] for row in others},
    )
    path = experiment.results_dir / "figures" / f"differences_{result.truth.name}.png"
    save_figure(figure, path)
    caption = (
        "Difference to BASE; the noise of seeds is not in these intervals, but in the verdict: green higher, "
        "red lower, grey within noise."
    )
    return [PageFigure(caption, path)]


def _design(experiment: TrickExperiment) -> list[str]:
    recipe, plan = experiment.base, experiment.plan
    name = run_name(plan.recipe or experiment.challenge.recipes[0])
    return [
        f"BASE is {name}: {recipe.model.backbone}, {recipe.data.size} px, {recipe.schedule.epochs} epochs, "
        f"every image predicted as it is and alone. Folds {', '.join(map(str, experiment.folds))} of "
        f"{experiment.split.n_folds}; seeds: {plan.seeds}. "
        "Each trick is alone, and nothing was tuned for it: every run has BASE's learning rate.",
        _timing(experiment),
    ]


def _timing(experiment: TrickExperiment) -> str:
    clock = clock_of(experiment)
    rough = f", with up to {experiment.n_workers} trainings side by side and as rough as that is"
    return (
        f"Training time: {clock} seconds as a multiple of BASE's with the same fold and seed, median over "
        "folds and seeds, and with what a trick needs first: BASE for a second stage, all members for an "
        f"ensemble{rough if clock == WALL else ''}."
    )
