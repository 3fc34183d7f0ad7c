"""Sample the patients of the demo: studies, images, true findings and noisy labels.

Findings come from a liability threshold model: a finding is present if its random liability is above a
threshold. The numbers define the demo; they are not measured on real data.
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.special import ndtri

from cxrlt.challenges import get_challenge
from cxrlt.phantom.findings import CLASSES, DEVICES, DRIVERS, FINDINGS, NO_FINDING

SPLIT_SHARES = {"train": 0.44, "development": 0.12, "test": 0.44}
MIN_CLASS_SHARE = 0.018
"""Prevalence to which the rarest classes are raised, so that a small demo has positives of all of them."""
MIN_PATIENTS, MIN_PATIENT_SHARE = 12, 0.1
"""Positive patients that every class has in train and test, and the limit as a share of the patients."""
MISS_RATE, FALSE_REPORT_RATE = 0.10, 0.005
"""Label noise: shares of present findings that are not reported, and of absent findings that are."""
FAINT_SHARE = 1 / 6
"""Share of findings that are nearly invisible."""
LOADINGS = np.array([[finding.drivers.get(name, 0.0) for name in DRIVERS] for finding in FINDINGS])
CHRONIC = np.array([finding.chronic for finding in FINDINGS])
# Purposes of random number generators; each purpose has a separate stream.
CASE, REPORT, IDENTITY, TOP_UP, SINGLE = range(5)


@dataclass(frozen=True)
class Image:
    """One image of a study."""

    dicom_id: str
    view: str


@dataclass(frozen=True)
class Study:
    """A study. `conspicuity` (n_classes,) is 0 if absent; `reported` (n_classes,) is 0/1 with label noise."""

    study_id: str
    images: tuple[Image, ...]
    conspicuity: np.ndarray
    reported: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """True labels: int8 (n_classes,)."""
        return set_no_finding(self.conspicuity > 0)


@dataclass(frozen=True)
class Patient:
    """A patient with one to four studies."""

    number: int
    subject_id: str
    split: str
    studies: tuple[Study, ...]


def set_no_finding(present: np.ndarray) -> np.ndarray:
    """Return 0/1 labels (n_classes,); No Finding is 1 if nothing, or only a device, is present."""
    labels = present.astype(np.int8)
    labels[NO_FINDING] = not np.delete(labels, [NO_FINDING, DEVICES]).any()
    return labels


def sample_patients(n_patients: int, seed: int) -> list[Patient]:
    """Sample all patients, ordered by split.

    Train and test have at least MIN_PATIENTS positive patients per class (a tenth of the patients if fewer).
    """
    patients = [sample_patient(*patient, seed) for patient in assign_splits(n_patients, seed)]
    for split in ("train", "test"):
        patients = ensure_min_patients(patients, split, seed)
    return patients


def assign_splits(n_patients: int, seed: int) -> list[tuple[int, str, str]]:
    """Return number, subject id and split of every patient, ordered by split."""
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
    """Return how many patients of a split of `n_patients` must be positive for each class."""
    return min(MIN_PATIENTS, math.ceil(MIN_PATIENT_SHARE * n_patients))


@cache
def thresholds() -> np.ndarray:
    """Return the liability thresholds (n_classes,): the official prevalences, raised for rare classes."""
    demo = get_challenge("demo")
    official = np.array(list(demo.train_counts.values())) / demo.train_images
    return -ndtri(MIN_CLASS_SHARE + (1 - MIN_CLASS_SHARE) * official)  # the upper tail of a standard normal


def sample_patient(number: int, subject_id: str, split: str, seed: int) -> Patient:
    """Sample the studies of a patient, with findings and labels."""
    rng = np.random.default_rng([seed, CASE, number])
    n_studies = sample_n_studies(rng)
    lasting, own = rng.standard_normal(len(DRIVERS)), rng.standard_normal(len(FINDINGS))
    visibility = sample_conspicuity(rng)
    studies = []
    for _ in range(n_studies):
        driver = np.sqrt(0.6) * lasting + np.sqrt(0.4) * rng.standard_normal(len(DRIVERS))
        chance = np.sqrt(CHRONIC) * own + np.sqrt(1 - CHRONIC) * rng.standard_normal(len(FINDINGS))
        liability = LOADINGS @ driver + np.sqrt(1 - (LOADINGS**2).sum(1)) * chance
        present = liability > thresholds()
        present[NO_FINDING] = False
        # A chronic finding keeps its conspicuity in the next study; others get a new one.
        visibility = np.where(CHRONIC >= 0.6, visibility, sample_conspicuity(rng))
        bedside = bedside_probability(driver[DRIVERS.index("critical")])
        studies.append(sample_study(rng, bedside, np.where(present, visibility, 0.0)))
    return add_report_noise(Patient(number, subject_id, split, tuple(studies)), seed)


def sample_n_studies(rng: np.random.Generator) -> int:
    """Sample the number of studies of a patient."""
    return int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))


def bedside_probability(critical: float) -> float:
    """Return the probability of a portable (AP) study, given the value of the driver "critical"."""
    return 1 / (1 + np.exp(-0.2 - 1.1 * critical))


def sample_conspicuity(rng: np.random.Generator) -> np.ndarray:
    """Sample conspicuities (n_classes,); a share of FAINT_SHARE is nearly invisible."""
    faint = rng.random(len(FINDINGS)) < FAINT_SHARE
    plain = rng.uniform(0.4, 1.0, len(FINDINGS))
    return np.where(faint, rng.uniform(0.06, 0.15, len(FINDINGS)), plain)


def sample_study(rng: np.random.Generator, bedside: float, conspicuity: np.ndarray) -> Study:
    """Sample views and ids of a study with these conspicuities (n_classes,); without reports."""
    if rng.random() < bedside:
        choices, chances = [("AP",), ("AP", "AP"), ("AP", "LATERAL")], [0.7, 0.2, 0.1]
    else:
        choices, chances = [("PA", "LATERAL"), ("PA",), ("PA", "LATERAL", "LATERAL")], [0.6, 0.3, 0.1]
    views = choices[rng.choice(3, p=chances)]
    images = tuple(Image(sample_dicom_id(rng), view) for view in views)
    study_id = f"s{50_000_000 + rng.integers(9_999_999)}"
    return Study(study_id, images, conspicuity, np.zeros(len(FINDINGS), np.int8))


def sample_dicom_id(rng: np.random.Generator) -> str:
    """Sample an id in the format of MIMIC-CXR."""
    return "-".join(f"{group:08x}" for group in rng.integers(2**32, size=5))


def add_report_noise(patient: Patient, seed: int) -> Patient:
    """Add noisy labels to the studies (see MISS_RATE and FALSE_REPORT_RATE)."""
    rng = np.random.default_rng([seed, REPORT, patient.number])
    studies = []
    for study in patient.studies:
        chance, present = rng.random(len(FINDINGS)), study.conspicuity > 0
        reported = np.where(present, chance >= MISS_RATE, chance < FALSE_REPORT_RATE)
        studies.append(replace(study, reported=set_no_finding(reported)))
    return replace(patient, studies=tuple(studies))


def ensure_min_patients(patients: list[Patient], split: str, seed: int) -> list[Patient]:
    """Add rare findings to patients of the split until each class has its minimum number of patients.

    Only findings that are present and reported count, so that true and noisy labels both reach the minimum.
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
            patients[number] = add_finding(patients[number], index, float(sample_conspicuity(rng)[index]))
    return patients


def is_positive(patient: Patient, index: int) -> bool:
    """Return whether a finding is present and reported in any study."""
    return any(study.conspicuity[index] > 0 and study.reported[index] for study in patient.studies)


def has_finding(patient: Patient) -> bool:
    """Return whether the last study has a finding."""
    return not patient.studies[-1].labels[NO_FINDING]


def add_finding(patient: Patient, index: int, conspicuity: float) -> Patient:
    """Return the patient with one more finding, present and reported, in the last study."""
    last = patient.studies[-1]
    now, reported = last.conspicuity.copy(), last.reported.astype(bool)
    now[index], reported[index] = conspicuity, True
    last = replace(last, conspicuity=now, reported=set_no_finding(reported))
    return replace(patient, studies=(*patient.studies[:-1], last))
