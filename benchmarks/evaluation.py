"""Benchmarks of metrics, bootstrap and ensemble search against scikit-learn."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.config import BenchmarkConfig
from benchmarks.measurement import Measurement, ReferenceValue
from benchmarks.scaling import ScalingResult, measure_scaling
from benchmarks.synthetic import make_logits, make_long_tailed, make_patients
from benchmarks.timing import time_interleaved
from cxrlt.challenges import get_challenge
from cxrlt.challenges.cxr_lt import COUNTS_2023, COUNTS_2024
from cxrlt.ensembles.selection import greedy_weights
from cxrlt.metrics import basic_interval, bootstrap, macro, ranking_values
from cxrlt.metrics.resampling import cluster_codes, cluster_weights

IMAGES_2023, IMAGES_2024 = (get_challenge(name).train_images for name in ("cxrlt2023", "cxrlt2024-task1"))
N_ROWS = IMAGES_2023  # out-of-fold rows of CXR-LT 2023
N_TEST_ROWS = 75_492  # test images of CXR-LT 2023
IMAGES_PER_PATIENT = 377_110 / 65_379  # images / patients of MIMIC-CXR
N_DRAWS, N_RECOMPUTED = 1000, 5
N_MEMBERS, N_ROUNDS = 12, 30
TOLERANCE = 1e-9
METRICS, BOOTSTRAP, SEARCH = "macro AP and AUROC", "patient bootstrap", "greedy ensemble search"
ONE_SORT = "one np.sort per class"
Floats = NDArray[np.floating]


def measure_metrics(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Compare AP and AUROC with scikit-learn."""
    targets, scores = make_long_tailed(config.size(N_ROWS, 4000), COUNTS_2024, IMAGES_2024)
    columns = np.ascontiguousarray(scores.T)

    def recompute() -> list[list[float]]:
        pairs = list(zip(targets.T, columns, strict=True))
        return [[metric(*pair) for pair in pairs] for metric in (average_precision_score, roc_auc_score)]

    ours, theirs = ranking_values(targets, scores), recompute()
    seconds, their_seconds, limit_seconds = time_interleaved(
        lambda: ranking_values(targets, scores), recompute, lambda: np.sort(columns, axis=1)
    )
    yield Measurement(
        f"{METRICS}, {_shape(targets)}",
        len(targets) / seconds,
        "rows/s",
        ReferenceValue(
            "scikit-learn's average_precision_score and roc_auc_score", len(targets) / their_seconds
        ),
        target=6,
        limit=ReferenceValue(ONE_SORT, len(targets) / limit_seconds),
        note="long-tailed classes, scores in float32, per core",
        error=_difference_error("a metric", list(ours.values()), theirs),
    )


def measure_metrics_scaling(config: BenchmarkConfig) -> ScalingResult:
    """Measure AP and AUROC at growing numbers of rows."""

    def prepare(n: int) -> Callable[[], object]:
        targets, scores = make_long_tailed(n, COUNTS_2024, IMAGES_2024)
        return lambda: ranking_values(targets, scores)

    return measure_scaling(METRICS, "row", config.size(N_ROWS // 8, 1000), prepare)


def measure_bootstrap(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Compare the patient bootstrap with scikit-learn."""
    targets, scores, patient = _cohort(config.size(N_TEST_ROWS, 2000))
    code, n_patients = cluster_codes(patient, len(targets))
    weights = next(cluster_weights(n_patients, N_DRAWS, seed=0))

    def recompute() -> Floats:
        """Return the AP (n_recomputed, n_classes) of the first draws."""
        samples = (
            np.repeat(np.arange(len(targets)), times) for times in weights.T[:N_RECOMPUTED, code].astype(int)
        )
        return np.array([_ap(targets[rows], scores[rows].T) for rows in samples])

    ours, theirs = bootstrap(targets, scores, patient, N_DRAWS), recompute()
    counts = [_step_counts(*column, code, n_patients) for column in zip(targets.T, scores.T, strict=True)]
    (seconds,) = time_interleaved(lambda: bootstrap(targets, scores, patient, N_DRAWS), repeats=2)
    their_seconds, limit_seconds = time_interleaved(
        recompute, lambda: [table @ weights for table in counts], repeats=2
    )
    ap, draws = ours.by_class["AP"]
    first = draws[:N_RECOMPUTED]
    pairs = ((ap, first), (_ap(targets, scores.T), theirs))
    intervals = [basic_interval(float(macro(value)), macro(draws)) for value, draws in pairs]
    bounds = [[interval.low, interval.high] for interval in intervals]
    yield Measurement(
        f"{BOOTSTRAP}, {_shape(targets)}",
        N_DRAWS / seconds,
        "draws/s",
        ReferenceValue(
            "scikit-learn's average_precision_score on the rows of each draw", N_RECOMPUTED / their_seconds
        ),
        target=50,
        limit=ReferenceValue("the sparse product of draws and counts", weights.shape[1] / limit_seconds),
        note=f"{N_DRAWS:,} draws of {n_patients:,} patients; ours also computes AUROC; the baseline's rate "
        f"is of the first {N_RECOMPUTED} draws; their APs and intervals are compared",
        error=_difference_error("AP of a draw", first, theirs)
        or _difference_error("a bound of the interval", *bounds),
    )


def measure_bootstrap_scaling(config: BenchmarkConfig) -> ScalingResult:
    """Measure the patient bootstrap at growing numbers of rows."""

    def prepare(n: int) -> Callable[[], object]:
        cohort = _cohort(n)
        return lambda: bootstrap(*cohort, n_draws=200)

    return measure_scaling(f"{BOOTSTRAP}, 200 draws", "row", config.size(N_TEST_ROWS // 8, 1000), prepare)


def measure_ensemble(config: BenchmarkConfig) -> Iterator[Measurement]:
    """Compare the greedy ensemble search with scikit-learn."""
    members, targets = _members(config.size(N_ROWS, 4000))
    start = time.process_time()
    greedy_weights(members, targets, "mAP", rounds=N_ROUNDS)
    seconds = time.process_time() - start
    error = _selection_error(members, targets, rounds=0) or _selection_error(*_members(2000), rounds=10)
    their_seconds, limit_seconds = time_interleaved(
        lambda: macro(_ap(targets, members[0] + members[1])), lambda: np.sort(members[0], axis=1), repeats=2
    )
    yield Measurement(
        f"{SEARCH}, {_shape(targets)}",
        N_MEMBERS * (N_ROUNDS + 1) / seconds,
        "ensembles/s",
        ReferenceValue("the same search with scikit-learn's average_precision_score", 1 / their_seconds),
        target=5,
        limit=ReferenceValue(ONE_SORT, 1 / limit_seconds),
        note=f"{N_MEMBERS} members, {N_ROUNDS} rounds, {seconds:.3g} s of CPU time; the baseline's rate is "
        "of one ensemble; compared: the first member on all rows, 10 rounds on 2,000 rows",
        error=error,
    )


def measure_ensemble_scaling(config: BenchmarkConfig) -> ScalingResult:
    """Measure the greedy ensemble search at growing numbers of rows."""

    def prepare(n: int) -> Callable[[], object]:
        members, targets = _members(n)
        return lambda: greedy_weights(members, targets, "mAP", rounds=1)

    return measure_scaling(f"{SEARCH}, 1 round", "row", config.size(N_ROWS // 8, 1000), prepare)


def _shape(targets: Floats) -> str:
    return f"{len(targets):,} x {targets.shape[1]}"


def _difference_error(what: str, ours: Sequence[Floats], theirs: Sequence[Floats]) -> str:
    """Return the largest difference as text; empty if all values agree within TOLERANCE."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if np.allclose(ours, theirs, rtol=0, atol=TOLERANCE, equal_nan=True):
        return ""
    return f"{what} differs by up to {np.nanmax(np.abs(ours - theirs)):.2g}"


def _ap(targets: Floats, columns: Floats) -> Floats:
    """Return scikit-learn's AP (c,) for targets (n, c) and scores (c, n); NaN without positives."""
    pairs = zip(targets.T, columns, strict=True)
    return np.array([average_precision_score(t, s) if t.any() else np.nan for t, s in pairs])


def _cohort(n: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return targets (n, c), scores (n, c) and patients (n,)."""
    return *make_long_tailed(n, COUNTS_2023, IMAGES_2023), make_patients(n, round(n / IMAGES_PER_PATIENT))


def _step_counts(target: Floats, score: Floats, code: NDArray[np.intp], n_patients: int) -> csr_array:
    """Return row counts between the scores of positives (n_steps, n_patients), for the limit's product."""
    levels = np.unique(score[target == 1])
    step = np.searchsorted(levels, score)
    return csr_array((np.ones(len(code), np.float32), (step, code)), shape=(len(levels) + 1, n_patients))


def _members(n: int) -> tuple[list[Floats], Floats]:
    """Return scores (c, n) of correlated members, with more and more noise, and targets (n, c)."""
    targets, _ = make_long_tailed(n, COUNTS_2024, IMAGES_2024)
    rng = np.random.default_rng(1)
    shared = make_logits(targets, rng)
    members = []
    for own in np.linspace(0.2, 2, N_MEMBERS, dtype=np.float32):
        members.append(np.ascontiguousarray((shared + own * make_logits(targets, rng)).T))
    return members, targets


def _selection_error(members: Sequence[Floats], targets: Floats, rounds: int) -> str:
    """Return the weights of a search with scikit-learn and ours as text; empty if they are equal."""
    ours, theirs = greedy_weights(members, targets, "mAP", rounds=rounds), np.zeros(len(members))
    counts, total, best = np.zeros(len(members)), np.zeros_like(members[0]), -np.inf
    for _ in range(rounds + 1):
        scores_of_candidates = [macro(_ap(targets, total + member)) for member in members]
        added = int(np.argmax(scores_of_candidates))
        counts[added] += 1
        total = total + members[added]
        if scores_of_candidates[added] > best:
            best, theirs = scores_of_candidates[added], counts / counts.sum()
    same = np.allclose(ours, theirs, rtol=0, atol=TOLERANCE)
    return (
        ""
        if same
        else f"on {len(targets):,} rows scikit-learn chooses {theirs.round(3)}, not {ours.round(3)}"
    )
