"""Differences between the rows of an experiment, and which of them exceed the noise of patients and of seeds.

Noise of patients: the bootstrap draws whole patients, the same ones for all losses and seeds, so a difference
of two losses' means over seeds has draws of its own. Noise of seeds: s^2, the variance of the challenge's
metric between the seeds of one loss, averaged over all losses; the difference of two means over n seeds has
2 s^2 / n of it. Both together are the variance of a difference:

    SE^2 = var(draws of the difference) + 2 s^2 / n

A row that is computed from the first one's own models shares their noise. For it 2 s^2 is the variance
between seeds of its difference to the first row with the same seed, averaged over the rows of its kind.

A difference is beyond the noise if its bootstrap interval leaves 0 out and it is larger than 1.96 SE. A
difference that is met with 80 % power is (1.96 + 0.84) SE; with the mean SE^2 of all compared losses that is
the smallest difference the design can detect. Nothing here is corrected for how many losses are compared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cxrlt.metrics import BootstrapSamples, Interval, paired_difference

SIGNIFICANT = 1.96  # two-sided 5 %
POWER = 0.84  # 80 %
WITHIN = "within noise"


@dataclass(frozen=True)
class Truth:
    """Labels (index image_id, a column per class) of all rows of folds.csv, and each row's patient."""

    name: str
    labels: pd.DataFrame
    patients: pd.Series


@dataclass(frozen=True)
class RunScore:
    """`metrics` in the order of the table, the challenge's first; `classes` has a row per class.

    First of its columns is what the table's means are means of. `beside` are further numbers without draws.
    """

    metrics: dict[str, BootstrapSamples]
    classes: pd.DataFrame
    beside: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """One variant on one truth: means over seeds, and differences to the reference.

    `spreads` are standard deviations between seeds, NaN for one seed; `differences` have their bootstrap
    intervals; `error` is SE of the challenge's metric; `beside` are means over seeds too. The reference
    has no differences and no verdict.
    """

    name: str
    means: Mapping[str, float]
    spreads: Mapping[str, float]
    differences: Mapping[str, Interval]
    error: float
    verdict: str
    beside: Mapping[str, float]
    classes: pd.DataFrame


@dataclass(frozen=True)
class TruthResult:
    """What the runs are worth against one truth; `scores` by the run's name."""

    truth: Truth
    scores: Mapping[str, RunScore]
    compared: Sequence[Compared]

    @property
    def metrics(self) -> list[str]:
        """In the order of the table, the challenge's first."""
        return list(self.compared[0].means)


def compare(
    scores: Mapping[str, Sequence[RunScore]], kinds: Mapping[str, str] | None = None
) -> list[Compared]:
    """Every variant's scores, one per seed, against those of the first.

    `kinds` names the variants that are computed from the first one's models, seed by seed, and their kinds.
    """
    means = {name: _mean_over_seeds(runs) for name, runs in scores.items()}
    first = next(iter(scores))
    noise = _noise_of_seeds(scores, kinds or {})
    return [_compared(name, runs, means[name], means[first], noise[name]) for name, runs in scores.items()]


def detectable(compared: Sequence[Compared]) -> float:
    """The smallest difference of the challenge's metric that is found with 80 % power; NaN without any."""
    errors = [row.error for row in compared if not math.isnan(row.error)]
    return (SIGNIFICANT + POWER) * math.sqrt(np.mean(np.square(errors))) if errors else math.nan


def _compared(
    name: str,
    runs: Sequence[RunScore],
    means: Mapping[str, BootstrapSamples],
    first: Mapping[str, BootstrapSamples],
    noise_of_seeds: float,
) -> Compared:
    metric = next(iter(means))
    differences: dict[str, Interval] = {}
    error, verdict = math.nan, ""
    if means is not first:
        differences = {key: paired_difference(means[key], first[key]) for key in means}
        sampled = float(np.nanvar(means[metric].draws - first[metric].draws))
        error = math.sqrt(sampled + noise_of_seeds)
        verdict = _verdict(differences[metric], error)
    return Compared(
        name=name,
        means={key: drawn.value for key, drawn in means.items()},
        spreads={key: _spread([run.metrics[key].value for run in runs]) for key in means},
        differences=differences,
        error=error,
        verdict=verdict,
        beside={key: float(np.mean([run.beside[key] for run in runs])) for key in runs[0].beside},
        classes=sum(run.classes for run in runs) / len(runs),
    )


def _verdict(difference: Interval, error: float) -> str:
    outside = difference.low > 0 or difference.high < 0
    if not outside or not abs(difference.value) > SIGNIFICANT * error:
        return WITHIN
    return "higher" if difference.value > 0 else "lower"


def _mean_over_seeds(runs: Sequence[RunScore]) -> dict[str, BootstrapSamples]:
    return {
        key: BootstrapSamples(
            float(np.mean([run.metrics[key].value for run in runs])),
            np.mean([run.metrics[key].draws for run in runs], axis=0),
            drawn.bounds,
        )
        for key, drawn in runs[0].metrics.items()
    }


def _noise_of_seeds(scores: Mapping[str, Sequence[RunScore]], kinds: Mapping[str, str]) -> dict[str, float]:
    """Variance that seeds give every variant's difference to the first; 0 for one seed, which shows none."""
    first = next(iter(scores))
    values = {name: _metric_values(runs) for name, runs in scores.items()}
    trained = [_spread(own) for name, own in values.items() if name not in kinds]
    spreads: dict[str, list[float]] = {}
    for name, kind in kinds.items():
        spreads.setdefault(kind, []).append(_spread(values[name] - values[first]))
    alone = 2 * _mean_variance(trained)
    return {
        name: (_mean_variance(spreads[kinds[name]]) if name in kinds else alone) / len(runs)
        for name, runs in scores.items()
    }


def _metric_values(runs: Sequence[RunScore]) -> np.ndarray:
    metric = next(iter(runs[0].metrics))
    return np.array([run.metrics[metric].value for run in runs])


def _mean_variance(spreads: Sequence[float]) -> float:
    return float(np.nan_to_num(np.mean(np.square(spreads))))


def _spread(values: Sequence[float] | np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
