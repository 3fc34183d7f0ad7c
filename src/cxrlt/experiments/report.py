"""What every experiment's report says alike: results per truth, what the design can detect, and the text."""

from collections.abc import Callable, Mapping, Sequence

from cxrlt.experiments.differences import TruthResult, compare, detectable
from cxrlt.experiments.plan import Experiment, Run
from cxrlt.experiments.score import RunScore, Truth
from cxrlt.experiments.tables import markdown, number
from cxrlt.reports.experiment_page import PageTable

LEGEND = (
    "Values are means ± standard deviations over seeds of pooled out-of-fold scores.",
    "Differences have paired bootstrap intervals over patients. The verdict is higher or lower where the "
    "interval leaves 0 out and the difference exceeds 1.96 SE, SE² = bootstrap variance + 2 s²/seeds, s² the "
    "mean variance between seeds. It is not corrected for the number of comparisons.",
)


def result_of(
    runs: Sequence[Run],
    truth: Truth,
    score: Callable[[Run], RunScore],
    kinds: Mapping[str, str] | None = None,
) -> TruthResult:
    """Every run scored against `truth`, and the rows they belong to compared with the first."""
    print(f"score against {truth.name}", flush=True)
    scores = {run.name: score(run) for run in runs}
    by_variant: dict[str, list[RunScore]] = {}
    for run in runs:
        by_variant.setdefault(run.variant, []).append(scores[run.name])
    return TruthResult(truth, scores, compare(by_variant, kinds))


def title_of(experiment: Experiment) -> str:
    return f"{experiment.name} on {experiment.challenge.name}"


def detects(experiment: Experiment, result: TruthResult, kinds: Mapping[str, Sequence[str]]) -> str:
    """The smallest differences that the design finds, for a person to read; `kinds` name rows alike."""
    rows = {row.name: row for row in result.compared}
    least = {kind: detectable([rows[name] for name in names]) for kind, names in kinds.items()}
    said = [f"{number(value)}{f' {kind}' if kind else ''}" for kind, value in least.items() if value == value]
    if not said:
        return "Nothing to compare with."
    seeds = "" if experiment.plan.seeds > 1 else " One seed: the noise of seeds is not in it."
    return (
        f"Smallest {experiment.challenge.metric} difference that this design detects "
        f"(80 % power, 5 % two-sided): {', '.join(said)}.{seeds}"
    )


def markdown_of(
    experiment: Experiment,
    design: Sequence[str],
    tables: Mapping[str, Sequence[PageTable]],
    legend: Sequence[str],
) -> str:
    """The whole report as text; `tables` by the name of the truth."""
    blocks = [f"## {title_of(experiment)}", *design]
    for truth, own in tables.items():
        blocks.append(f"### Scored against {truth}")
        for table in own:
            blocks += [table.caption, markdown(table.headings, table.rows)]
    return "\n\n".join([*blocks, " ".join(legend)])
