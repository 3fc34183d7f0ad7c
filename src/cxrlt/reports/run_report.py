"""`cxrlt report`: the runs of a challenge on one HTML page, with its figures and tables as files.

The page has no id of an image or patient, no path and, unless they are asked for, no image: it can be shown
to others. Free texts that may contain them (notes, errors, names of files) are not copied.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from cxrlt.artifacts import read_json
from cxrlt.errors import UserError
from cxrlt.inputs.images import ImageSource
from cxrlt.metrics import paired_difference
from cxrlt.predictions.scoring import Evaluation
from cxrlt.predictions.trained_folds import fold_dirs
from cxrlt.recipe import Recipe, differing_fields
from cxrlt.reports.findings import largest_problems
from cxrlt.reports.page import Detail, Section, write_page
from cxrlt.reports.report_classes import classes_section
from cxrlt.reports.report_data import ReportData
from cxrlt.reports.report_files import ReportFiles, format_interval, interval_columns
from cxrlt.reports.report_images import ImageFigures
from cxrlt.reports.report_parts import data_section, members_sections, training_section

PAGE, REPORT = "report.html", "report"
Z_SIGNIFICANCE = 1.96  # normal quantile of 97.5 %
PATH_FIELDS = ("pretrained", "pretrained_images")
"""Fields of a recipe whose values are paths: a report has only the name of the file."""


def write_report(source: ImageSource, names: Sequence[str] = (), *, with_images: bool = False) -> Path:
    """Write report.html, its figures and its tables, and return the page.

    `names`: runs and ensembles to show (default: all that do not belong to an experiment). Raises UserError
    for an unknown name, and if nothing can be scored.
    """
    challenge, workspace = source.challenge, source.workspace
    data = ReportData(challenge, workspace, tuple(dict.fromkeys(names)))
    files = ReportFiles(workspace.submission_dir(challenge.name, REPORT))
    images = ImageFigures(data, source) if with_images else None
    files.clear()
    sections = [
        headline(data),
        leaderboard_section(data, files),
        classes_section(data, files, images),
        data_section(data, files),
        training_section(data, files),
        *members_sections(data, files),
        reproduce_section(data),
    ]
    page = files.folder / PAGE
    write_page(page, f"{challenge.title}: report", sections)
    return page


def headline(data: ReportData) -> Section:
    """Return the score of the best run, what it is compared with, and the largest problems."""
    best = data.best
    what = "ensemble" if data.is_ensemble(best.name) else "model"
    patients = "" if best.n_patients is None else f" of {best.n_patients:,} patients"
    score = format_interval(best.overall.metrics[data.metric])
    paragraphs = [
        f"The best {what}, {best.name}, has {data.metric} {score} on {best.n_rows:,} left-out images"
        f"{patients} (out of fold, 95 % interval)."
    ]
    for split, evaluation in data.labelled_scores.items():
        score = format_interval(evaluation.overall.metrics[data.metric])
        paragraphs.append(f"On {split} ({evaluation.n_rows:,} images): {data.metric} {score}.")
    paragraphs += _comparison(data, best)
    problems = largest_problems(data)
    if not problems:
        return Section("Summary", [*paragraphs, "No problem was found."])
    steps = [(problem.text, problem.command) for problem in problems]
    return Section("Summary", [*paragraphs, "What to look at first, and what to try:"], steps=steps)


def _comparison(data: ReportData, best: Evaluation) -> list[str]:
    """Return the difference to the best of the others, and what is noise."""
    others = [each for each in data.board.evaluations if each.name != best.name]
    if not others:
        return ["There is nothing to compare it with."]
    other = others[0]
    difference = paired_difference(best.draws[data.metric], other.draws[data.metric])
    draws = best.draws[data.metric].draws - other.draws[data.metric].draws
    noise = Z_SIGNIFICANCE * float(np.nanstd(draws))
    return [
        f"Minus {other.name}, the best of the others: {format_interval(difference, signed=True)}, on the "
        f"same images. Differences below {noise:.3f} are within the noise of the patients; another seed "
        "adds its own noise."
    ]


def leaderboard_section(data: ReportData, files: ReportFiles) -> Section:
    """Return the table of all runs, best first."""
    best_recipe = next((data.recipe(name) for name in data.models), None)
    rows = []
    for evaluation, behind in zip(data.board.evaluations, data.board.differences, strict=True):
        name, per_fold = evaluation.name, [fold[data.metric] for fold in evaluation.per_fold]
        is_ensemble = data.is_ensemble(name)
        rows.append(
            {
                "name": name,
                "kind": f"ensemble, {data.weights(name).kind}" if is_ensemble else "model",
                **interval_columns(data.metric, evaluation.overall.metrics[data.metric]),
                **interval_columns("best minus this", behind),
                **{key: each.value for key, each in evaluation.overall.metrics.items() if key != data.metric},
                "sd over folds": float(np.std(per_fold, ddof=1)) if len(per_fold) > 1 else math.nan,
                "seed": "" if is_ensemble else ", ".join(sorted({str(r.seed) for r in data.records(name)})),
                "hours": data.hours(name),
                "images/s": math.nan if is_ensemble else data.images_per_s(name),
                "recipe": "" if is_ensemble else _describe_recipe(data.recipe(name), best_recipe),
            }
        )
    table = files.table("leaderboard", f"Out-of-fold scores ({data.metric} first)", rows)
    skipped = len(data.board.skipped)
    text = f"{skipped} runs cannot be scored: see cxrlt evaluate." if skipped else ""
    hours = "Hours: training of all folds, and of all members; processor time without a GPU."
    return Section("Leaderboard", [each for each in (text, hours) if each], [table])


def _describe_recipe(recipe: Recipe, best: Recipe | None) -> str:
    """Return backbone and size, and how the recipe differs from that of the best model."""
    text = f"{recipe.model.backbone}, {recipe.data.size} px, {recipe.schedule.epochs} epochs"
    if best is None or recipe == best:
        return text
    hidden = ("model.backbone", "data.size", "schedule.epochs", *(f"model.{name}" for name in PATH_FIELDS))
    changes = []
    for line in differing_fields(best, recipe):
        field, _, values = line.partition(": ")
        if field not in hidden:
            changes.append(f"{field} {values.rpartition(' -> ')[2]}")
    return "; ".join([text, *changes])


def reproduce_section(data: ReportData) -> Section:
    """Return commands, recipes, versions, devices and licences."""
    name = data.challenge.name
    commands, details = [], []
    for number, model in enumerate(data.models):
        recipe = data.recipe(model)
        folder = fold_dirs(data.run_dir(model))[0]
        facts = _environment(folder)
        licences = dict.fromkeys(record.initial_weights.licence for record in data.records(model))
        facts.append(f"licence of the initial weights: {', '.join(licences)}")
        code = yaml.safe_dump(_without_paths(recipe.model_dump(mode="json")), sort_keys=False)
        details.append(Detail(f"recipe-{number}", f"{model}: recipe and environment", facts, code=code))
        seeds = sorted({record.seed for record in data.records(model)})
        commands.append(f"cxrlt train {model} --challenge {name} --seed {seeds[0] if seeds else 0}")
    for each in data.board.evaluations:
        if data.is_ensemble(each.name):
            commands.append(data.weights(each.name).command(each.name))
    split = data.current.folds.identity.split
    text = f"SHA-256 of the split into folds: {split}. A train command needs the recipe of that name."
    return Section("Reproduce", [text], details=details, code="\n".join(commands))


def _without_paths(values: dict) -> dict:
    """Return the values of a recipe with the names of files instead of their paths."""
    model = {
        key: Path(value).name if key in PATH_FIELDS and isinstance(value, str) else value
        for key, value in values["model"].items()
    }
    return {**values, "model": model}


def _environment(folder: Path) -> list[str]:
    """Return commit, versions and device of a fold's training."""
    try:
        found = read_json(folder / "environment.json", "cxrlt train")
    except UserError:
        return []
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    changed = " with uncommitted changes" if found["uncommitted_changes"] else ""
    return [
        f"cxrlt {found['version']}, commit {found['commit'] or 'unknown'}{changed}; "
        f"Python {found['python']}; {packages}",
        f"device: {found['device']}",
    ]
