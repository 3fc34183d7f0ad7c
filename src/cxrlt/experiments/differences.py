"""Differences between variants and the reference, and which of them exceed the noise of patients and seeds.

Sampling noise of patients: the bootstrap draws whole patients, the same ones for all variants and seeds, so
the draws of two variants are paired. Noise of seeds: s^2 is the variance of the challenge's metric between
the seeds of one variant, averaged over all trained variants; the difference of two means over n seeds has the
variance 2 s^2 / n. The variance of a difference is the sum of both:

    SE^2 = var(draws of the difference) + 2 s^2 / n

A variant that uses the reference's models shares their noise. For this variant, 2 s^2 is the variance
between seeds of its difference to the reference with the same seed, averaged over all variants of its kind.

A difference is significant if its bootstrap interval excludes 0 and it is larger than 1.96 SE. The smallest
difference that the design detects with 80 % power is (1.96 + 0.84) SE, with the mean SE^2 of all variants.
There is no correction for the number of comparisons.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cxrlt.metrics import BootstrapSamples, Interval, paired_difference

Z_SIGNIFICANCE = 1.96  # normal quantile of 97.5 %: 5 % two-sided
Z_POWER = 0.84  # normal quantile of 80 %: 80 % power
WITHIN_NOISE = "within noise"


@dataclass(frozen=True)
class Truth:
    """Ground-truth labels (index image_id, one column per class) and patient of every row of folds.csv."""

    name: str
    labels: pd.DataFrame
    patients: pd.Series


@dataclass(frozen=True)
class RunScore:
    """Scores of one run on one truth.

    `metrics`: by name, in the order of the table, the challenge's metric first.
    `classes`: one row per class; its first column is the metric whose macro mean is in the table.
    `extra_values`: further values without bootstrap draws.
    `class_draws`: bootstrap draws (n_draws, classes) of the first column of `classes`.
    """

    metrics: dict[str, BootstrapSamples]
    classes: pd.DataFrame
    extra_values: Mapping[str, float] = field(default_factory=dict)
    class_draws: np.ndarray | None = None


@dataclass(frozen=True)
class VariantResult:
    """One variant on one truth: means over seeds, and differences to the reference.

    `seed_stds`: standard deviations between seeds, NaN for one seed.
    `differences`: by metric, with bootstrap intervals.
    `standard_error`: of the difference in the challenge's metric.
    `extra_values`, `classes`: means over seeds. `classes` also has the interval of its first column, and its
    paired difference to the reference, with interval.
    The reference has no differences and no verdict.
    """

    name: str
    means: Mapping[str, float]
    seed_stds: Mapping[str, float]
    differences: Mapping[str, Interval]
    standard_error: float
    verdict: str
    extra_values: Mapping[str, float]
    classes: pd.DataFrame


@dataclass(frozen=True)
class TruthResult:
    """Scores of all runs and variants against one truth; `scores` by the run's name."""

    truth: Truth
    scores: Mapping[str, RunScore]
    variant_results: Sequence[VariantResult]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics in the order of the table, the challenge's metric first."""
        return list(self.variant_results[0].means)


def compare_to_reference(
    scores: Mapping[str, Sequence[RunScore]], kinds: Mapping[str, str] | None = None
) -> list[VariantResult]:
    """Compare every variant's scores (one per seed) with those of the first variant, the reference.

    `kinds`: the variants that use the reference's models of the same seed, and their kinds.
    """
    means = {name: _mean_over_seeds(runs) for name, runs in scores.items()}
    reference = next(iter(scores))
    seed_variances = _seed_variances(scores, kinds or {})
    return [
        _variant_result(
            name,
            runs,
            means[name],
            means[reference],
            seed_variances[name],
            _class_intervals(runs, scores[reference]),
        )
        for name, runs in scores.items()
    ]


def min_detectable_difference(results: Sequence[VariantResult]) -> float:
    """Return the smallest difference of the challenge's metric that is detected with 80 % power, or NaN."""
    errors = [row.standard_error for row in results if not math.isnan(row.standard_error)]
    return (Z_SIGNIFICANCE + Z_POWER) * math.sqrt(np.mean(np.square(errors))) if errors else math.nan


def _variant_result(
    name: str,
    runs: Sequence[RunScore],
    means: Mapping[str, BootstrapSamples],
    reference: Mapping[str, BootstrapSamples],
    seed_variance: float,
    class_intervals: pd.DataFrame,
) -> VariantResult:
    metric = next(iter(means))
    differences: dict[str, Interval] = {}
    standard_error, verdict = math.nan, ""
    if means is not reference:
        differences = {key: paired_difference(means[key], reference[key]) for key in means}
        bootstrap_variance = float(np.nanvar(means[metric].draws - reference[metric].draws))
        standard_error = math.sqrt(bootstrap_variance + seed_variance)
        verdict = _verdict(differences[metric], standard_error)
    return VariantResult(
        name=name,
        means={key: samples.value for key, samples in means.items()},
        seed_stds={key: _std([run.metrics[key].value for run in runs]) for key in means},
        differences=differences,
        standard_error=standard_error,
        verdict=verdict,
        extra_values={
            key: float(np.mean([run.extra_values[key] for run in runs])) for key in runs[0].extra_values
        },
        classes=_mean_classes(runs).join(class_intervals),
    )


def _mean_classes(runs: Sequence[RunScore]) -> pd.DataFrame:
    return sum((run.classes for run in runs[1:]), runs[0].classes) / len(runs)


def _class_intervals(runs: Sequence[RunScore], reference: Sequence[RunScore]) -> pd.DataFrame:
    """Return interval and paired difference to the reference of the first class metric, a row per class."""
    mean, mean_reference = _mean_classes(runs), _mean_classes(reference)
    draws, reference_draws = _mean_class_draws(runs), _mean_class_draws(reference)
    if draws is None or reference_draws is None:
        return pd.DataFrame(index=mean.index)
    metric, rows = mean.columns[0], []
    for c in range(len(mean)):
        samples = BootstrapSamples(float(mean[metric].iloc[c]), draws[:, c])
        row = _interval_columns(metric, samples.interval())
        if runs is not reference:
            base = BootstrapSamples(float(mean_reference[metric].iloc[c]), reference_draws[:, c])
            difference = paired_difference(samples, base)
            row |= {f"{metric} difference": difference.value}
            row |= _interval_columns(f"{metric} difference", difference)
        rows.append(row)
    return pd.DataFrame(rows, index=mean.index)


def _interval_columns(name: str, interval: Interval) -> dict[str, float]:
    return {f"{name} low": interval.low, f"{name} high": interval.high}


def _mean_class_draws(runs: Sequence[RunScore]) -> np.ndarray | None:
    draws = [run.class_draws for run in runs if run.class_draws is not None]
    return np.mean(draws, axis=0) if len(draws) == len(runs) else None


def _verdict(difference: Interval, standard_error: float) -> str:
    excludes_zero = difference.low > 0 or difference.high < 0
    if not excludes_zero or not abs(difference.value) > Z_SIGNIFICANCE * standard_error:
        return WITHIN_NOISE
    return "higher" if difference.value > 0 else "lower"


def _mean_over_seeds(runs: Sequence[RunScore]) -> dict[str, BootstrapSamples]:
    return {
        key: BootstrapSamples(
            float(np.mean([run.metrics[key].value for run in runs])),
            np.mean([run.metrics[key].draws for run in runs], axis=0),
            samples.bounds,
        )
        for key, samples in runs[0].metrics.items()
    }


def _seed_variances(scores: Mapping[str, Sequence[RunScore]], kinds: Mapping[str, str]) -> dict[str, float]:
    """Return the variance from seeds in every variant's difference to the reference; 0 for one seed."""
    reference = next(iter(scores))
    values = {name: _metric_values(runs) for name, runs in scores.items()}
    trained = [_std(seed_values) for name, seed_values in values.items() if name not in kinds]
    seed_stds: dict[str, list[float]] = {}
    for name, kind in kinds.items():
        seed_stds.setdefault(kind, []).append(_std(values[name] - values[reference]))
    independent = 2 * _mean_variance(trained)
    return {
        name: (_mean_variance(seed_stds[kinds[name]]) if name in kinds else independent) / len(runs)
        for name, runs in scores.items()
    }


def _metric_values(runs: Sequence[RunScore]) -> np.ndarray:
    metric = next(iter(runs[0].metrics))
    return np.array([run.metrics[metric].value for run in runs])


def _mean_variance(seed_stds: Sequence[float]) -> float:
    return float(np.nan_to_num(np.mean(np.square(seed_stds))))


def _std(values: Sequence[float] | np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
