"""What an experiment found, written down: CSV, Markdown and one HTML page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from cxrlt.experiments.differences import Compared, RunScore, Truth, TruthResult, compare, detectable
from cxrlt.experiments.experiment import Experiment, Row, Run
from cxrlt.experiments.score import RunLogits, read_runs, score_run
from cxrlt.experiments.variants import Setting, VariantKind
from cxrlt.reports.experiment_page import PageTable, Section, write_experiment_page
from cxrlt.system.atomic_files import atomic_path, write_text

KINDS: Mapping[VariantKind, str] = {
    "trained": "for a training of its own",
    "second stage": "for a second stage",
    "prediction": "for another prediction",
    "ensemble": "for an ensemble",
}
LEGEND = (
    "Values are means ± standard deviations over seeds of pooled out-of-fold scores.",
    "Differences have paired bootstrap intervals over patients. The verdict is higher or lower where the "
    "interval leaves 0 out and the difference exceeds 1.96 SE, SE² = bootstrap variance + 2 s²/seeds, s² the "
    "mean variance between seeds. It is not corrected for the number of comparisons.",
)


def report(
    experiment: Experiment, runs: Sequence[Run], truths: Sequence[Truth], settings: Mapping[str, Setting]
) -> tuple[str, dict[str, str]]:
    """Score the finished runs and write every table and figure.

    Returns the tables as Markdown, none without the reference, and of the runs that cannot be scored why.
    """
    if not any(experiment.is_reference(run) for run in runs):
        return "", {}
    logits, unscored = read_runs(experiment, runs)
    left_out = {run.variant.name for run in runs if run.name in unscored}
    runs = [run for run in runs if run.variant.name not in left_out]
    if experiment.reference.name in left_out:
        return "", unscored
    measured = experiment.measure(runs, settings)
    results = [_result(experiment, runs, logits, truth) for truth in truths]
    tables = _write_tables(experiment, runs, results, measured)
    design = [*experiment.design(runs), *experiment.left_out_lines()]
    text = _markdown(experiment, design, tables)
    write_text(experiment.results_dir / "results.md", text + "\n")
    _write_page(experiment, runs, results, tables, design)
    return f"{text}\n\nmore in {experiment.results_dir / 'report.html'}", unscored


def _result(
    experiment: Experiment, runs: Sequence[Run], logits: Mapping[str, RunLogits], truth: Truth
) -> TruthResult:
    """Every run scored against `truth`, and the variants compared with the reference."""
    print(f"score against {truth.name}", flush=True)
    scores = {run.name: score_run(experiment, run, logits[run.name], truth) for run in runs}
    by_variant: dict[str, list[RunScore]] = {}
    for run in runs:
        by_variant.setdefault(run.variant.name, []).append(scores[run.name])
    kinds = {run.variant.name: run.variant.kind for run in runs if run.variant.kind != "trained"}
    return TruthResult(truth, scores, compare(by_variant, kinds))


def _write_tables(
    experiment: Experiment,
    runs: Sequence[Run],
    results: Sequence[TruthResult],
    measured: Mapping[str, Row],
) -> dict[str, list[PageTable]]:
    """The CSV files. Returns the tables of texts, by truth."""
    folder = experiment.results_dir
    rows = {result.truth.name: _result_rows(experiment, runs, result, measured) for result in results}
    _write_csv(folder / "results.csv", [row for own in rows.values() for row in own])
    _write_csv(
        folder / "runs.csv", [row for result in results for row in _run_rows(experiment, runs, result)]
    )
    _write_csv(folder / "classes.csv", [row for result in results for row in _class_rows(result)])
    return {
        result.truth.name: [
            PageTable(
                _detects(experiment, runs, result),
                *_result_table(experiment, rows[result.truth.name], result.metrics),
            ),
            *experiment.more_tables(result),
        ]
        for result in results
    }


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def _result_rows(
    experiment: Experiment, runs: Sequence[Run], result: TruthResult, measured: Mapping[str, Row]
) -> list[Row]:
    """One row per variant, the reference first, with every number that the texts show and more."""
    rows = []
    for row in result.compared:
        own = [run for run in runs if run.variant.name == row.name]
        rows.append(
            {"truth": result.truth.name, experiment.key: row.name}
            | experiment.describe(own[0])
            | {"seeds": len(own)}
            | _compared_values(row)
            | dict(row.beside)
            | measured[row.name]
        )
    return rows


def _compared_values(row: Compared) -> Row:
    """Every metric's mean, spread and difference, and the verdict on the challenge's."""
    values: Row = {}
    for key, mean in row.means.items():
        values |= {key: mean, f"{key} sd over seeds": row.spreads[key]}
    for key, interval in row.differences.items():
        values |= {f"{key} difference": interval.value}
        values |= {f"{key} difference low": interval.low, f"{key} difference high": interval.high}
    return values | {"standard error of the difference": row.error, "verdict": row.verdict}


def _run_rows(experiment: Experiment, runs: Sequence[Run], result: TruthResult) -> list[Row]:
    """One row per run."""
    return [
        {
            "truth": result.truth.name,
            experiment.key: run.variant.name,
            "seed": run.seed,
            **{key: drawn.value for key, drawn in result.scores[run.name].metrics.items()},
            **experiment.run_values(run, result.scores[run.name]),
        }
        for run in runs
    ]


def _class_rows(result: TruthResult) -> list[Row]:
    """One row per variant and class: means over seeds."""
    return [
        {"truth": result.truth.name, "variant": row.name, "class": name, **values}
        for row in result.compared
        for name, values in row.classes.to_dict("index").items()
    ]


def _detects(experiment: Experiment, runs: Sequence[Run], result: TruthResult) -> str:
    """The smallest differences that the design finds, by kind where there are several."""
    kind_of = {run.variant.name: run.variant.kind for run in runs}
    by_kind: dict[VariantKind, list[Compared]] = {}
    for row in result.compared[1:]:
        by_kind.setdefault(kind_of[row.name], []).append(row)
    least = {kind: detectable(rows) for kind, rows in by_kind.items()}
    several = {variant.kind for variant in experiment.variants} != {"trained"}
    found = [
        f"{number(value)}{f' {KINDS[kind]}' if several else ''}"
        for kind, value in least.items()
        if not math.isnan(value)
    ]
    if not found:
        return "Nothing to compare with."
    seeds = "" if experiment.plan.seeds > 1 else " One seed: the noise of seeds is not in it."
    return (
        f"Smallest {experiment.challenge.metric} difference that this design detects "
        f"(80 % power, 5 % two-sided): {', '.join(found)}.{seeds}"
    )


def _result_table(
    experiment: Experiment, rows: Sequence[Row], metrics: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of one truth's results, for a person to read."""
    reference, metric = rows[0][experiment.key], metrics[0]
    n_first = len(metrics) if experiment.difference_last else 1
    headings = [experiment.heading, *metrics[:n_first], f"{metric} minus {reference} [95 %]", "verdict"]
    headings += [*metrics[n_first:], *(heading for heading, _ in experiment.columns)]
    cells = []
    for row in rows:
        values = [_with_spread(row[key], row[f"{key} sd over seeds"]) for key in metrics]
        difference = "" if row is rows[0] else _difference(row, metric)
        cells.append(
            [
                str(row[experiment.key]),
                *values[:n_first],
                difference,
                str(row["verdict"]),
                *values[n_first:],
                *(cell(row) for _, cell in experiment.columns),
            ]
        )
    return headings, cells


def _difference(row: Row, metric: str) -> str:
    value, low, high = (signed(row[f"{metric} difference{end}"]) for end in ("", " low", " high"))
    return f"{value} [{low}, {high}]"


def _class_table(result: TruthResult) -> tuple[list[str], list[list[str]]]:
    """The first figure of every class, the most frequent first, a column per variant."""
    names = list(result.truth.labels.sum().sort_values(ascending=False, kind="stable").index)
    figure = result.compared[0].classes.columns[0]
    positives = (result.truth.labels == 1).sum()
    rows = [
        [name, f"{positives[name]:,}", *(number(row.classes.loc[name, figure]) for row in result.compared)]
        for name in names
    ]
    return [f"{figure} of class", "positives", *(row.name for row in result.compared)], rows


def _markdown(
    experiment: Experiment, design: Sequence[str], tables: Mapping[str, Sequence[PageTable]]
) -> str:
    """The whole report as text; `tables` by the name of the truth."""
    blocks = [f"## {experiment.title}", *design]
    for truth, own in tables.items():
        blocks.append(f"### Scored against {truth}")
        for table in own:
            lines = [table.headings, ["---"] * len(table.headings), *table.rows]
            blocks += [table.caption, "\n".join(f"| {' | '.join(cells)} |" for cells in lines)]
    return "\n\n".join([*blocks, " ".join([*LEGEND, *experiment.legend])])


def _write_page(
    experiment: Experiment,
    runs: Sequence[Run],
    results: Sequence[TruthResult],
    tables: Mapping[str, Sequence[PageTable]],
    design: Sequence[str],
) -> None:
    figures = experiment.figures(runs, results)
    described = [[variant.name, variant.about] for variant in experiment.variants if variant.about]
    about = (
        [PageTable(f"The {experiment.what}", [experiment.heading, "what"], described)] if described else []
    )
    sections = [Section("How it was done", (*design, *LEGEND, *experiment.legend), about)]
    for result in results:
        name = result.truth.name
        classes = PageTable("Class by class, means over seeds", *_class_table(result))
        own = figures.results.get(name, ())
        sections.append(Section(f"Scored against {name}", tables=(*tables[name], classes), figures=own))
    page = experiment.results_dir / "report.html"
    write_experiment_page(page, experiment.title, [*sections, *figures.sections])


def number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def _with_spread(value: float, spread: float) -> str:
    return number(value) if math.isnan(spread) else f"{number(value)} ± {number(spread)}"
