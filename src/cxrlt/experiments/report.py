"""The report of an experiment: CSV files, Markdown and one HTML page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from cxrlt.ensembles.provenance import initial_weights_notes
from cxrlt.experiments.differences import (
    RunScore,
    Truth,
    TruthResult,
    VariantResult,
    compare_to_reference,
    min_detectable_difference,
)
from cxrlt.experiments.experiment import Experiment, Row, Run
from cxrlt.experiments.score import RunLogits, read_runs, score_run
from cxrlt.experiments.variants import OptimSettings, VariantKind
from cxrlt.reports.page import PageTable, Section, write_page
from cxrlt.system.atomic_files import atomic_path, write_text

KIND_LABELS: Mapping[VariantKind, str] = {
    "trained": "for a separate training",
    "second stage": "for a second stage",
    "prediction": "for a prediction variant",
    "ensemble": "for an ensemble",
}
LEGEND = (
    "Values are means ± standard deviations over seeds of the pooled out-of-fold score.",
    "Differences have paired bootstrap intervals over patients. The verdict is higher or lower if the "
    "interval excludes 0 and the difference exceeds 1.96 SE, where SE² = bootstrap variance + 2 s²/seeds and "
    "s² is the mean variance between seeds. There is no correction for the number of comparisons.",
)


def write_report(
    experiment: Experiment,
    runs: Sequence[Run],
    truths: Sequence[Truth],
    settings: Mapping[str, OptimSettings],
) -> tuple[str, dict[str, str]]:
    """Score the finished runs and write all tables and figures.

    Returns the tables as Markdown (empty if the reference has no score), and {run: why it has no score}.
    """
    if not any(experiment.is_reference(run) for run in runs):
        return "", {}
    logits, unscored = read_runs(experiment, runs)
    failed_variants = {run.variant.name for run in runs if run.name in unscored}
    runs = [run for run in runs if run.variant.name not in failed_variants]
    if experiment.reference.name in failed_variants:
        return "", unscored
    measured_columns = experiment.measured_columns(runs, settings)
    results = [_result(experiment, runs, logits, truth) for truth in truths]
    tables = _write_tables(experiment, runs, results, measured_columns)
    design = [*experiment.describe_design(runs), *experiment.excluded_lines()]
    design += experiment.fold_assignment.leakage_notes(experiment.challenge)
    names = [run.name for run in runs]
    design += initial_weights_notes(names, experiment.challenge, experiment.source.workspace)
    text = _markdown(experiment, design, tables)
    write_text(experiment.results_dir / "results.md", text + "\n")
    _write_page(experiment, runs, results, tables, design)
    return f"{text}\n\nfull report: {experiment.results_dir / 'report.html'}", unscored


def _result(
    experiment: Experiment, runs: Sequence[Run], logits: Mapping[str, RunLogits], truth: Truth
) -> TruthResult:
    """Score every run against `truth` and compare the variants with the reference."""
    print(f"score against {truth.name}", flush=True)
    scores = {run.name: score_run(experiment, run, logits[run.name], truth) for run in runs}
    by_variant: dict[str, list[RunScore]] = {}
    for run in runs:
        by_variant.setdefault(run.variant.name, []).append(scores[run.name])
    kinds = {run.variant.name: run.variant.kind for run in runs if run.variant.kind != "trained"}
    return TruthResult(truth, scores, compare_to_reference(by_variant, kinds))


def _write_tables(
    experiment: Experiment,
    runs: Sequence[Run],
    results: Sequence[TruthResult],
    measured_columns: Mapping[str, Row],
) -> dict[str, list[PageTable]]:
    """Write the CSV files. Return the tables of the Markdown and HTML reports, by the truth's name."""
    folder = experiment.results_dir
    rows = {result.truth.name: _result_rows(experiment, runs, result, measured_columns) for result in results}
    write_csv(folder / "results.csv", [row for truth_rows in rows.values() for row in truth_rows])
    write_csv(folder / "runs.csv", [row for result in results for row in _run_rows(experiment, runs, result)])
    write_csv(folder / "classes.csv", [row for result in results for row in _class_rows(result)])
    return {
        result.truth.name: [
            PageTable(
                _detection_limit(experiment, runs, result),
                *_result_table(experiment, rows[result.truth.name], result.metrics),
            ),
            *experiment.extra_tables(result),
        ]
        for result in results
    }


def write_csv(path: Path, rows: Sequence[Row] | pd.DataFrame) -> None:
    """Write the rows as a CSV file."""
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def _result_rows(
    experiment: Experiment, runs: Sequence[Run], result: TruthResult, measured_columns: Mapping[str, Row]
) -> list[Row]:
    """Return the rows of results.csv: one per variant, the reference first."""
    rows = []
    for row in result.variant_results:
        variant_runs = [run for run in runs if run.variant.name == row.name]
        rows.append(
            {"truth": result.truth.name, experiment.key_column: row.name}
            | experiment.variant_columns(variant_runs[0])
            | {"seeds": len(variant_runs)}
            | _metric_columns(row)
            | dict(row.extra_values)
            | measured_columns[row.name]
        )
    return rows


def _metric_columns(row: VariantResult) -> Row:
    """Return mean, standard deviation and difference of every metric, the standard error and the verdict."""
    values: Row = {}
    for key, mean in row.means.items():
        values |= {key: mean, f"{key} sd over seeds": row.seed_stds[key]}
    for key, interval in row.differences.items():
        values |= {f"{key} difference": interval.value}
        values |= {f"{key} difference low": interval.low, f"{key} difference high": interval.high}
    return values | {"standard error of the difference": row.standard_error, "verdict": row.verdict}


def _run_rows(experiment: Experiment, runs: Sequence[Run], result: TruthResult) -> list[Row]:
    """Return the rows of runs.csv: one per run."""
    return [
        {
            "truth": result.truth.name,
            experiment.key_column: run.variant.name,
            "seed": run.seed,
            **{key: samples.value for key, samples in result.scores[run.name].metrics.items()},
            **experiment.run_columns(run, result.scores[run.name]),
        }
        for run in runs
    ]


def _class_rows(result: TruthResult) -> list[Row]:
    """Return the rows of classes.csv: one per variant and class, means over seeds."""
    return [
        {"truth": result.truth.name, "variant": row.name, "class": name}
        | {str(metric): value for metric, value in values.items()}
        for row in result.variant_results
        for name, values in row.classes.to_dict("index").items()
    ]


def _detection_limit(experiment: Experiment, runs: Sequence[Run], result: TruthResult) -> str:
    """Return a sentence with the smallest detectable difference, for each kind of variant."""
    kind_of = {run.variant.name: run.variant.kind for run in runs}
    by_kind: dict[VariantKind, list[VariantResult]] = {}
    for row in result.variant_results[1:]:
        by_kind.setdefault(kind_of[row.name], []).append(row)
    limits = {kind: min_detectable_difference(rows) for kind, rows in by_kind.items()}
    has_several_kinds = {variant.kind for variant in experiment.variants} != {"trained"}
    sentences = [
        f"{format_number(value)}{f' {KIND_LABELS[kind]}' if has_several_kinds else ''}"
        for kind, value in limits.items()
        if not math.isnan(value)
    ]
    if not sentences:
        return "There is no variant to compare with the reference."
    seeds = "" if experiment.plan.seeds > 1 else " With one seed, the noise between seeds is not included."
    return (
        f"Smallest {experiment.challenge.metric} difference that this design detects "
        f"(80 % power, 5 % two-sided): {', '.join(sentences)}.{seeds}"
    )


def _result_table(
    experiment: Experiment, rows: Sequence[Row], metrics: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Return headings and formatted cells of the results of one truth."""
    reference, metric = rows[0][experiment.key_column], metrics[0]
    n_first = len(metrics) if experiment.difference_last else 1
    headings = [experiment.heading, *metrics[:n_first], f"{metric} minus {reference} [95 %]", "verdict"]
    headings += [*metrics[n_first:], *(heading for heading, _ in experiment.extra_columns)]
    cells = []
    for row in rows:
        values = [format_mean_std(row[key], row[f"{key} sd over seeds"]) for key in metrics]
        difference = "" if row is rows[0] else format_difference(row, metric)
        cells.append(
            [
                str(row[experiment.key_column]),
                *values[:n_first],
                difference,
                str(row["verdict"]),
                *values[n_first:],
                *(cell(row) for _, cell in experiment.extra_columns),
            ]
        )
    return headings, cells


def format_difference(row: Row, metric: str) -> str:
    """Return the difference of a row of results.csv with its interval."""
    value, low, high = (row[f"{metric} difference{end}"] for end in ("", " low", " high"))
    return format_interval(value, low, high)


def format_interval(value: float, low: float, high: float) -> str:
    """Return a difference with the ends of its interval."""
    return f"{format_signed(value)} [{format_signed(low)}, {format_signed(high)}]"


def _class_table(result: TruthResult) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of the first class metric: a row per class, a column per variant."""
    names = list(result.truth.labels.sum().sort_values(ascending=False, kind="stable").index)
    class_metric = result.variant_results[0].classes.columns[0]
    positives = (result.truth.labels == 1).sum()
    rows = [
        [
            name,
            f"{positives[name]:,}",
            *(format_number(row.classes.loc[name, class_metric]) for row in result.variant_results),
        ]
        for name in names
    ]
    return [f"{class_metric} of class", "positives", *(row.name for row in result.variant_results)], rows


def _markdown(
    experiment: Experiment, design: Sequence[str], tables: Mapping[str, Sequence[PageTable]]
) -> str:
    """Return the report as Markdown; `tables` by the truth's name."""
    blocks = [f"## {experiment.title}", *design]
    for truth, truth_tables in tables.items():
        blocks.append(f"### Scored against {truth}")
        for table in truth_tables:
            blocks += [table.caption, markdown_table(table)]
    return "\n\n".join([*blocks, " ".join([*LEGEND, *experiment.legend])])


def markdown_table(table: PageTable) -> str:
    """Return the table as Markdown, without its caption."""
    lines = [table.headings, ["---"] * len(table.headings), *table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _write_page(
    experiment: Experiment,
    runs: Sequence[Run],
    results: Sequence[TruthResult],
    tables: Mapping[str, Sequence[PageTable]],
    design: Sequence[str],
) -> None:
    figures = experiment.make_figures(runs, results)
    descriptions = [
        [variant.name, variant.description] for variant in experiment.variants if variant.description
    ]
    description_tables = (
        [PageTable(f"The {experiment.kind}", [experiment.heading, "what"], descriptions)]
        if descriptions
        else []
    )
    sections = [Section("Method", (*design, *LEGEND, *experiment.legend), description_tables)]
    for result in results:
        name = result.truth.name
        classes = PageTable("Per class, means over seeds", *_class_table(result))
        result_figures = figures.results.get(name, ())
        sections.append(
            Section(f"Scored against {name}", tables=(*tables[name], classes), figures=result_figures)
        )
    page = experiment.results_dir / "report.html"
    write_page(page, experiment.title, [*sections, *figures.sections])


def format_number(value: float) -> str:
    """Return the value with 3 decimals; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def format_signed(value: float) -> str:
    """Return the value with its sign and 3 decimals; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def format_mean_std(value: float, std: float) -> str:
    """Return value ± standard deviation; only the value if the latter is NaN."""
    return format_number(value) if math.isnan(std) else f"{format_number(value)} ± {format_number(std)}"
