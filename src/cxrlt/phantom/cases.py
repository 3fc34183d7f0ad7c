"""The patients of the phantom: studies, pictures, the true findings and those that reports name."""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.special import ndtri

from cxrlt.challenges import get_challenge
from cxrlt.phantom.findings import CLASSES, DEVICES, DRIVERS, FINDINGS, NO_FINDING

SPLIT_SHARES = {"train": 0.44, "development": 0.12, "test": 0.44}
FLOOR_SHARE = 0.018
MIN_PATIENTS, MIN_PATIENT_SHARE = 12, 0.1
MISSED, INVENTED = 0.10, 0.005
FAINT_SHARE = 1 / 6
LOADINGS = np.array([[finding.drivers.get(name, 0.0) for name in DRIVERS] for finding in FINDINGS])
CHRONIC = np.array([finding.chronic for finding in FINDINGS])
# What a generator of random numbers is for; each purpose has its own stream.
CASE, REPORT, IDENTITY, TOP_UP, SINGLE = range(5)


@dataclass(frozen=True)
class Picture:
    dicom_id: str
    view: str


@dataclass(frozen=True)
class Study:
    """`conspicuity` (classes,): 0 where a finding is absent. `reported` (classes,): 0/1 with report noise."""

    study_id: str
    pictures: tuple[Picture, ...]
    conspicuity: np.ndarray
    reported: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return close_labels(self.conspicuity > 0)


@dataclass(frozen=True)
class Patient:
    number: int
    subject_id: str
    split: str
    studies: tuple[Study, ...]


def close_labels(present: np.ndarray) -> np.ndarray:
    """0/1 labels (classes,) of the findings present: No Finding when nothing but devices is there."""
    labels = present.astype(np.int8)
    labels[NO_FINDING] = not np.delete(labels, [NO_FINDING, DEVICES]).any()
    return labels


def draw_patients(n_patients: int, seed: int) -> list[Patient]:
    """All patients, split by split. At least 12 with each class in train and test (a tenth if few)."""
    patients = [draw_patient(*who, seed) for who in enrol(n_patients, seed)]
    for split in ("train", "test"):
        patients = top_up(patients, split, seed)
    return patients


def enrol(n_patients: int, seed: int) -> list[tuple[int, str, str]]:
    """Number, subject id and split of every patient, split by split."""
    train_end = round(n_patients * SPLIT_SHARES["train"])
    test_start = train_end + round(n_patients * SPLIT_SHARES["development"])
    identity = np.random.default_rng([seed, IDENTITY])
    subjects = 10_000_000 + np.sort(identity.choice(9_999_999, n_patients, replace=False))
    identity.shuffle(subjects)
    splits = ["train"] * train_end + ["development"] * (test_start - train_end)
    splits += ["test"] * (n_patients - test_start)
    return [
        (number, str(subject), split)
        for number, (subject, split) in enumerate(zip(subjects, splits, strict=True))
    ]


def min_patients(n_patients: int) -> int:
    """How many of the patients of a split must have each class."""
    return min(MIN_PATIENTS, math.ceil(MIN_PATIENT_SHARE * n_patients))


@cache
def thresholds() -> np.ndarray:
    """Liability (classes,) above which a finding is there: the official shares, raised for rare classes."""
    demo = get_challenge("demo")
    official = np.array(list(demo.train_counts.values())) / demo.train_images
    return -ndtri(FLOOR_SHARE + (1 - FLOOR_SHARE) * official)  # the upper tail of a standard normal


def draw_patient(number: int, subject_id: str, split: str, seed: int) -> Patient:
    rng = np.random.default_rng([seed, CASE, number])
    n_studies = draw_n_studies(rng)
    lasting, own = rng.standard_normal(len(DRIVERS)), rng.standard_normal(len(FINDINGS))
    visibility = draw_conspicuity(rng)
    studies = []
    for _ in range(n_studies):
        driver = np.sqrt(0.6) * lasting + np.sqrt(0.4) * rng.standard_normal(len(DRIVERS))
        chance = np.sqrt(CHRONIC) * own + np.sqrt(1 - CHRONIC) * rng.standard_normal(len(FINDINGS))
        liability = LOADINGS @ driver + np.sqrt(1 - (LOADINGS**2).sum(1)) * chance
        present = liability > thresholds()
        present[NO_FINDING] = False
        # A lasting finding is as plain, or as faint, in the next study; a new one is not.
        visibility = np.where(CHRONIC >= 0.6, visibility, draw_conspicuity(rng))
        bedside = bedside_chance(driver[DRIVERS.index("critical")])
        studies.append(draw_study(rng, bedside, np.where(present, visibility, 0.0)))
    return with_reports(Patient(number, subject_id, split, tuple(studies)), seed)


def draw_n_studies(rng: np.random.Generator) -> int:
    return int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))


def bedside_chance(critical: float) -> float:
    return 1 / (1 + np.exp(-0.2 - 1.1 * critical))


def draw_conspicuity(rng: np.random.Generator) -> np.ndarray:
    """(classes,): about one in six nearly invisible."""
    faint = rng.random(len(FINDINGS)) < FAINT_SHARE
    plain = rng.uniform(0.4, 1.0, len(FINDINGS))
    return np.where(faint, rng.uniform(0.06, 0.15, len(FINDINGS)), plain)


def draw_study(rng: np.random.Generator, bedside: float, conspicuity: np.ndarray) -> Study:
    if rng.random() < bedside:
        choices, chances = [("AP",), ("AP", "AP"), ("AP", "LATERAL")], [0.7, 0.2, 0.1]
    else:
        choices, chances = [("PA", "LATERAL"), ("PA",), ("PA", "LATERAL", "LATERAL")], [0.6, 0.3, 0.1]
    views = choices[rng.choice(3, p=chances)]
    pictures = tuple(Picture(draw_dicom_id(rng), view) for view in views)
    study_id = f"s{50_000_000 + rng.integers(9_999_999)}"
    return Study(study_id, pictures, conspicuity, np.zeros(len(FINDINGS), np.int8))


def draw_dicom_id(rng: np.random.Generator) -> str:
    return "-".join(f"{group:08x}" for group in rng.integers(2**32, size=5))


def with_reports(patient: Patient, seed: int) -> Patient:
    """The patient with what the reports say: one in ten findings missed, one in two hundred invented."""
    rng = np.random.default_rng([seed, REPORT, patient.number])
    studies = []
    for study in patient.studies:
        chance, present = rng.random(len(FINDINGS)), study.conspicuity > 0
        reported = np.where(present, chance >= MISSED, chance < INVENTED)
        studies.append(replace(study, reported=close_labels(reported)))
    return replace(patient, studies=tuple(studies))


def top_up(patients: list[Patient], split: str, seed: int) -> list[Patient]:
    """Give rare findings to further patients of the split until each class has its minimum.

    Counted in the reports, which miss some, so that labels and truth both have it.
    """
    patients = list(patients)
    rng = np.random.default_rng([seed, TOP_UP, len(split)])
    order = rng.permutation([patient.number for patient in patients if patient.split == split])
    minimum = min_patients(len(order))
    for index in range(len(CLASSES)):
        if index == NO_FINDING:
            continue
        lacking = minimum - sum(is_positive(patients[number], index) for number in order)
        free = [n for n in order if not is_positive(patients[n], index) and has_finding(patients[n])]
        for number in free[: max(0, lacking)]:
            patients[number] = give(patients[number], index, float(draw_conspicuity(rng)[index]))
    return patients


def is_positive(patient: Patient, index: int) -> bool:
    return any(study.conspicuity[index] > 0 and study.reported[index] for study in patient.studies)


def has_finding(patient: Patient) -> bool:
    return not patient.studies[-1].labels[NO_FINDING]


def give(patient: Patient, index: int, conspicuity: float) -> Patient:
    """The patient with the finding in the last study, and reported."""
    last = patient.studies[-1]
    now, reported = last.conspicuity.copy(), last.reported.astype(bool)
    now[index], reported[index] = conspicuity, True
    last = replace(last, conspicuity=now, reported=close_labels(reported))
    return replace(patient, studies=(*patient.studies[:-1], last))
