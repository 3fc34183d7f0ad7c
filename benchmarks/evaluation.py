"""Metrics, bootstrap and ensemble search against scikit-learn."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.clock import race
from benchmarks.growth import Growth, growth
from benchmarks.rows import Mark, Row
from benchmarks.setting import Setting
from benchmarks.synthetic import logits_for, long_tailed, patients
from cxrlt.challenges import get_challenge
from cxrlt.challenges.cxr_lt import COUNTS_2023, COUNTS_2024
from cxrlt.ensembles.selection import greedy_weights
from cxrlt.metrics import basic_interval, bootstrap, macro, ranking_values
from cxrlt.metrics.resampling import cluster_codes, cluster_weights

IMAGES_2023, IMAGES_2024 = (get_challenge(name).train_images for name in ("cxrlt2023", "cxrlt2024-task1"))
N_ROWS = IMAGES_2023  # out-of-fold scores of a challenge
N_TEST_ROWS = 75_492  # the test images of 2023
IMAGES_PER_PATIENT = 377_110 / 65_379  # of MIMIC-CXR
N_DRAWS, N_RECOMPUTED = 1000, 5
N_MEMBERS, ROUNDS = 12, 30
TOLERANCE = 1e-9
METRICS, BOOTSTRAP, SEARCH = "macro AP and AUROC", "patient bootstrap", "greedy ensemble search"
ONE_SORT = "one np.sort of each class"
Floats = NDArray[np.floating]


def metrics_rows(setting: Setting) -> Iterator[Row]:
    targets, scores = long_tailed(setting.size(N_ROWS, 4000), COUNTS_2024, IMAGES_2024)
    columns = np.ascontiguousarray(scores.T)

    def recompute() -> list[list[float]]:
        pairs = list(zip(targets.T, columns, strict=True))
        return [[metric(*pair) for pair in pairs] for metric in (average_precision_score, roc_auc_score)]

    ours, theirs = ranking_values(targets, scores), recompute()
    seconds, their_seconds, least = race(
        lambda: ranking_values(targets, scores), recompute, lambda: np.sort(columns, axis=1)
    )
    yield Row(
        f"{METRICS}, {_shape(targets)}",
        len(targets) / seconds,
        "rows/s",
        Mark("scikit-learn's average_precision_score and roc_auc_score", len(targets) / their_seconds),
        target=6,
        limit=Mark(ONE_SORT, len(targets) / least),
        note="long-tailed classes, scores in float32, per core",
        wrong=_unlike("a metric", list(ours.values()), theirs),
    )


def metrics_growth(setting: Setting) -> Growth:
    def prepare(n: int) -> Callable[[], object]:
        targets, scores = long_tailed(n, COUNTS_2024, IMAGES_2024)
        return lambda: ranking_values(targets, scores)

    return growth(METRICS, "row", setting.size(N_ROWS // 8, 1000), prepare)


def bootstrap_rows(setting: Setting) -> Iterator[Row]:
    targets, scores, patient = _cohort(setting.size(N_TEST_ROWS, 2000))
    code, n_patients = cluster_codes(patient, len(targets))
    weights = next(cluster_weights(n_patients, N_DRAWS, seed=0))

    def recompute() -> Floats:
        """AP of the rows of each of the first draws."""
        samples = (
            np.repeat(np.arange(len(targets)), times) for times in weights.T[:N_RECOMPUTED, code].astype(int)
        )
        return np.array([_ap(targets[rows], scores[rows].T) for rows in samples])

    ours, theirs = bootstrap(targets, scores, patient, N_DRAWS), recompute()
    counts = [_step_counts(*column, code, n_patients) for column in zip(targets.T, scores.T, strict=True)]
    (seconds,) = race(lambda: bootstrap(targets, scores, patient, N_DRAWS), repeats=2)
    their_seconds, least = race(recompute, lambda: [table @ weights for table in counts], repeats=2)
    ap, draws = ours.by_class["AP"]
    first = draws[:N_RECOMPUTED]
    pairs = ((ap, first), (_ap(targets, scores.T), theirs))
    intervals = [basic_interval(float(macro(value)), macro(draws)) for value, draws in pairs]
    ends = [[interval.low, interval.high] for interval in intervals]
    yield Row(
        f"{BOOTSTRAP}, {_shape(targets)}",
        N_DRAWS / seconds,
        "draws/s",
        Mark("scikit-learn's average_precision_score of the rows of each draw", N_RECOMPUTED / their_seconds),
        target=50,
        limit=Mark("the sparse product of draws and counts", weights.shape[1] / least),
        note=f"{N_DRAWS:,} draws of {n_patients:,} patients, ours with AUROC too; the alternative's rate is "
        f"that of the first {N_RECOMPUTED} draws, whose APs and interval are compared",
        wrong=_unlike("AP of a draw", first, theirs) or _unlike("an end of the interval", *ends),
    )


def bootstrap_growth(setting: Setting) -> Growth:
    def prepare(n: int) -> Callable[[], object]:
        cohort = _cohort(n)
        return lambda: bootstrap(*cohort, n_draws=200)

    return growth(f"{BOOTSTRAP}, 200 draws", "row", setting.size(N_TEST_ROWS // 8, 1000), prepare)


def ensemble_rows(setting: Setting) -> Iterator[Row]:
    members, targets = _members(setting.size(N_ROWS, 4000))
    start = time.process_time()
    greedy_weights(members, targets, "mAP", rounds=ROUNDS)
    seconds = time.process_time() - start
    wrong = _chosen_otherwise(members, targets, rounds=0) or _chosen_otherwise(*_members(2000), rounds=10)
    their_seconds, least = race(
        lambda: macro(_ap(targets, members[0] + members[1])), lambda: np.sort(members[0], axis=1), repeats=2
    )
    yield Row(
        f"{SEARCH}, {_shape(targets)}",
        N_MEMBERS * (ROUNDS + 1) / seconds,
        "ensembles/s",
        Mark("the same search with scikit-learn's average_precision_score", 1 / their_seconds),
        target=5,
        limit=Mark(ONE_SORT, 1 / least),
        note=f"{N_MEMBERS} members, {ROUNDS} rounds, {seconds:.3g} s of processor time; the alternative's "
        "rate is that of one ensemble; the first member is compared on all rows, 10 rounds on 2,000",
        wrong=wrong,
    )


def ensemble_growth(setting: Setting) -> Growth:
    def prepare(n: int) -> Callable[[], object]:
        members, targets = _members(n)
        return lambda: greedy_weights(members, targets, "mAP", rounds=1)

    return growth(f"{SEARCH}, 1 round", "row", setting.size(N_ROWS // 8, 1000), prepare)


def _shape(targets: Floats) -> str:
    return f"{len(targets):,} x {targets.shape[1]}"


def _unlike(what: str, ours: Sequence[Floats], theirs: Sequence[Floats]) -> str:
    """How far apart they are, or nothing where they are equal to TOLERANCE."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if np.allclose(ours, theirs, rtol=0, atol=TOLERANCE, equal_nan=True):
        return ""
    return f"{what} differs by up to {np.nanmax(np.abs(ours - theirs)):.2g}"


def _ap(targets: Floats, columns: Floats) -> Floats:
    """scikit-learn's AP of each class of targets (n, c) and scores (c, n); NaN without positives."""
    pairs = zip(targets.T, columns, strict=True)
    return np.array([average_precision_score(t, s) if t.any() else np.nan for t, s in pairs])


def _cohort(n: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Targets, scores and patients of `n` images."""
    return *long_tailed(n, COUNTS_2023, IMAGES_2023), patients(n, round(n / IMAGES_PER_PATIENT))


def _step_counts(target: Floats, score: Floats, code: NDArray[np.intp], n_patients: int) -> csr_array:
    """Rows between scores of positives (steps, patients): what draws must be multiplied with at least."""
    levels = np.unique(score[target == 1])
    step = np.searchsorted(levels, score)
    return csr_array((np.ones(len(code), np.float32), (step, code)), shape=(len(levels) + 1, n_patients))


def _members(n: int) -> tuple[list[Floats], Floats]:
    """Scores (c, n) of members that share errors, each with more of its own than the last; targets (n, c)."""
    targets, _ = long_tailed(n, COUNTS_2024, IMAGES_2024)
    rng = np.random.default_rng(1)
    shared = logits_for(targets, rng)
    members = []
    for own in np.linspace(0.2, 2, N_MEMBERS, dtype=np.float32):
        members.append(np.ascontiguousarray((shared + own * logits_for(targets, rng)).T))
    return members, targets


def _chosen_otherwise(members: Sequence[Floats], targets: Floats, rounds: int) -> str:
    """What a search with scikit-learn chooses where ours does not choose the same."""
    ours, theirs = greedy_weights(members, targets, "mAP", rounds=rounds), np.zeros(len(members))
    counts, total, best = np.zeros(len(members)), np.zeros_like(members[0]), -np.inf
    for _ in range(rounds + 1):
        reached = [macro(_ap(targets, total + member)) for member in members]
        added = int(np.argmax(reached))
        counts[added] += 1
        total = total + members[added]
        if reached[added] > best:
            best, theirs = reached[added], counts / counts.sum()
    same = np.allclose(ours, theirs, rtol=0, atol=TOLERANCE)
    return (
        ""
        if same
        else f"of {len(targets):,} rows scikit-learn chooses {theirs.round(3)}, not {ours.round(3)}"
    )
