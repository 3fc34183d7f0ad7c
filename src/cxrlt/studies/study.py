"""The stage `cxrlt study`: train one recipe with several losses, alike but for the loss, and compare them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from cxrlt.artifacts import write_text
from cxrlt.inputs.images import ImageSource
from cxrlt.studies.compare import Compared, compare, detectable
from cxrlt.studies.plan import TUNING_SEED, Run, Study, StudyPlan
from cxrlt.studies.score import RunScore, Truth, read_truths, score_run
from cxrlt.studies.step_time import step_times
from cxrlt.studies.tables import (
    Row,
    class_rows,
    markdown,
    number,
    number_table,
    result_rows,
    result_table,
    run_rows,
    sensitivity_rows,
    write_csv,
)
from cxrlt.studies.train import predict_runs, require_none_failed, train_runs
from cxrlt.studies.tune import Tuned, settings_of, tune


@dataclass(frozen=True)
class TruthResult:
    """What the runs are worth against one truth."""

    truth: Truth
    scores: Mapping[Run, RunScore]
    compared: Sequence[Compared]

    @property
    def metrics(self) -> list[str]:
        return list(self.compared[0].means)

    @property
    def detectable(self) -> float:
        return detectable(self.compared)


def study_losses(source: ImageSource, plan: StudyPlan) -> str:
    """Tune, train, predict and score what is not done yet, and write the tables. Returns them as Markdown.

    Raises UserError, after everything else is done, for runs that failed.
    """
    study = Study(source, plan)
    n_tuning, n_runs = len({v.tuning for v in study.variants}), len(study.variants) * plan.n_seeds
    print(
        f"{study.name} on {study.challenge.name}: {len(study.variants)} variants, {plan.n_seeds} seeds, "
        f"folds {', '.join(map(str, study.folds))}: {n_runs * len(study.folds)} trainings and "
        f"{n_tuning * (len(set(plan.rates)) + 1)} more to tune, {study.n_workers} at a time",
        flush=True,
    )
    truths = read_truths(study)
    source.folded(study.split.frame.index, study.base.data.cache_size)  # one process builds the cache
    tuned, failures = tune(study)
    settings = settings_of(tuned, study.variants)
    runs = [
        study.run(variant, seed, settings[variant.name].lr, settings[variant.name].clip_grad)
        for variant in study.variants
        if variant.name in settings
        for seed in range(plan.n_seeds)
    ]
    failures |= train_runs(study, runs, study.folds, "train")
    runs = _complete(study, runs)
    failures |= predict_runs(study, runs)
    runs = _predicted(runs, failures)
    first = study.variants[0].name
    comparable = any(run.variant.name == first for run in runs)
    text = _report(study, runs, truths, settings) if comparable else ""
    require_none_failed(failures)
    return text


def _complete(study: Study, runs: Sequence[Run]) -> list[Run]:
    """The runs of the variants whose every seed and fold is trained."""
    missing = {r.variant.name for r in runs for fold in study.folds if not study.is_trained(r, fold)}
    return [run for run in runs if run.variant.name not in missing]


def _predicted(runs: Sequence[Run], failures: Mapping[str, str]) -> list[Run]:
    missing = {run.variant.name for run in runs if run.name in failures}
    return [run for run in runs if run.variant.name not in missing]


def _report(study: Study, runs: Sequence[Run], truths: Sequence[Truth], settings: Mapping[str, Tuned]) -> str:
    times = step_times(study, [run for run in runs if run.seed == 0])
    results = [_result(study, runs, truth) for truth in truths]
    rows = [
        row
        for result in results
        for row in result_rows(study, result.truth.name, result.compared, runs, settings, times)
    ]
    folder = study.results_dir
    write_csv(folder / "results.csv", rows)
    write_csv(folder / "runs.csv", [r for x in results for r in run_rows(study, x.truth.name, x.scores)])
    write_csv(folder / "classes.csv", [r for x in results for r in class_rows(x.truth.name, x.compared)])
    text = _text(study, results, rows)
    write_text(folder / "results.md", text + "\n")
    return f"{text}\n\n{folder}"


def _result(study: Study, runs: Sequence[Run], truth: Truth) -> TruthResult:
    print(f"score against {truth.name}", flush=True)
    scores = {run: score_run(study, run, truth) for run in runs}
    by_variant: dict[str, list[RunScore]] = {}
    for run, score in scores.items():
        by_variant.setdefault(run.variant.name, []).append(score)
    return TruthResult(truth, scores, compare(by_variant))


def _text(study: Study, results: Sequence[TruthResult], rows: Sequence[Row]) -> str:
    """The tables as Markdown, each below what it can detect."""
    frame, blocks = pd.DataFrame(rows), [f"## {study.name} on {study.challenge.name}", _design(study)]
    for result in results:
        own = frame[frame["truth"] == result.truth.name]
        blocks.append(f"### Scored against {result.truth.name}")
        if not math.isnan(result.detectable):
            blocks.append(
                f"Smallest {study.challenge.metric} difference that this design detects (80 % power, 5 % "
                f"two-sided): **{number(result.detectable)}**."
            )
        blocks.append(markdown(*result_table(own, result.metrics)))
        if study.plan.ablation == "ral_sensitivity":
            table = sensitivity_rows(study, result.truth.name, result.compared)
            blocks.append(markdown(*number_table(table)))
    return "\n\n".join([*blocks, LEGEND])


def _design(study: Study) -> str:
    recipe, plan = study.base, study.plan
    name = plan.recipe or study.challenge.recipes[0]
    folds = ", ".join(map(str, study.folds))
    lrs = ", ".join(f"{recipe.optim.lr * rate:.3g}" for rate in sorted(set(plan.rates)))
    return (
        f"`{name}`: {recipe.model.backbone}, {recipe.data.size} px, {recipe.schedule.epochs} epochs; folds "
        f"{folds} of {study.split.n_folds}, {plan.n_seeds} seeds. Learning rate (of {lrs}) "
        f"and clipping were chosen per loss on fold {study.folds[0]} with seed {TUNING_SEED}, which is not "
        "reported."
    )


LEGEND = (
    "Values are means ± standard deviations over seeds of pooled out-of-fold scores. Differences have paired "
    "bootstrap intervals over patients. Verdict: higher or lower where the interval leaves 0 out and the "
    "difference exceeds 1.96 SE, SE² = bootstrap variance + 2 s²/seeds, s² the mean variance between seeds; "
    "not corrected for the number of comparisons. Train − OOF: the same metric on rows the model was trained "
    "on, minus that on left-out rows. Step time: a training step relative to the first row's, median ± half "
    "the interquartile range of interleaved rounds. Clipped: share of updates whose gradient was clipped. A "
    "learning rate marked lowest or highest lies at the edge of those tried."
)
