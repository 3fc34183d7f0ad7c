"""Sample the patients of the single-label demo: every study has one finding or No Finding."""

from dataclasses import replace
from functools import cache

import numpy as np

from cxrlt.challenges import get_challenge
from cxrlt.phantom.cases import (
    CHRONIC,
    LOADINGS,
    MISS_RATE,
    SINGLE,
    TOP_UP,
    Patient,
    Study,
    assign_splits,
    bedside_probability,
    min_patients,
    sample_conspicuity,
    sample_n_studies,
    sample_study,
)
from cxrlt.phantom.findings import DRIVERS, FINDINGS, NO_FINDING

SINGLE_MIN_CLASS_SHARE = 0.008
"""Prevalence to which the rarest classes are raised."""


class SingleStudy(Study):
    """A study of one class. A finding that is not reported becomes No Finding."""

    @property
    def labels(self) -> np.ndarray:
        """True labels: one-hot int8 (n_classes,)."""
        return one_hot(self.conspicuity)


def one_hot(conspicuity: np.ndarray) -> np.ndarray:
    """Return one-hot labels int8 (n_classes,) of conspicuities (n_classes,); No Finding if all are 0."""
    labels = (conspicuity > 0).astype(np.int8)
    labels[NO_FINDING] = not labels.any()
    return labels


def sample_single_patients(n_patients: int, seed: int) -> list[Patient]:
    """Sample all patients, ordered by split.

    Train and test have at least MIN_PATIENTS positive patients per class (a tenth of the patients if fewer).
    """
    patients = [sample_single_patient(*patient, seed) for patient in assign_splits(n_patients, seed)]
    for split in ("train", "test"):
        patients = ensure_min_patients_single(patients, split, seed)
    return patients


@cache
def class_shares() -> np.ndarray:
    """Return class probabilities (n_classes,): the official shares, raised for rare classes."""
    demo = get_challenge("demo-single")
    official = np.array(list(demo.train_counts.values())) / demo.train_images
    return SINGLE_MIN_CLASS_SHARE + (1 - len(official) * SINGLE_MIN_CLASS_SHARE) * official


@cache
def follow_up_shares() -> np.ndarray:
    """Return class probabilities (n_classes,) of a study whose finding differs from the previous study.

    They are chosen so that all studies together have the probabilities of `class_shares`.
    """
    leaving = class_shares() * (1 - CHRONIC)
    return leaving / leaving.sum()


def sample_single_patient(number: int, subject_id: str, split: str, seed: int) -> Patient:
    """Sample the studies of a patient; a chronic finding often stays in the next study."""
    rng = np.random.default_rng([seed, SINGLE, number])
    studies: list[Study] = []
    index, visibility = sample_class(rng, class_shares())
    for _ in range(sample_n_studies(rng)):
        studies.append(sample_single_study(rng, index, visibility))
        if rng.random() >= CHRONIC[index]:
            index, visibility = sample_class(rng, follow_up_shares())
    return Patient(number, subject_id, split, tuple(studies))


def sample_class(rng: np.random.Generator, shares: np.ndarray) -> tuple[int, float]:
    """Sample a class with these probabilities (n_classes,), and its conspicuity."""
    index = int(rng.choice(len(FINDINGS), p=shares))
    return index, float(sample_conspicuity(rng)[index])


def sample_single_study(rng: np.random.Generator, index: int, visibility: float) -> SingleStudy:
    """Sample a study of one class, with its noisy label."""
    conspicuity = np.zeros(len(FINDINGS))
    conspicuity[index] = 0.0 if index == NO_FINDING else visibility
    bedside = bedside_probability(LOADINGS[index, DRIVERS.index("critical")])
    study = sample_study(rng, bedside, conspicuity)
    missed = rng.random() < MISS_RATE
    reported = one_hot(np.zeros_like(conspicuity) if missed else conspicuity)
    return SingleStudy(study.study_id, study.images, conspicuity, reported)


def ensure_min_patients_single(patients: list[Patient], split: str, seed: int) -> list[Patient]:
    """Change the last studies of patients of frequent classes until each class has its minimum of patients.

    Only classes that are present and reported count, so that true and noisy labels both reach the minimum.
    """
    patients = list(patients)
    rng = np.random.default_rng([seed, TOP_UP, SINGLE, len(split)])
    order = rng.permutation([patient.number for patient in patients if patient.split == split])
    minimum = min_patients(len(order))
    counts = np.sum([reported_classes(patients[number]) for number in order], axis=0)
    for index in np.argsort(counts, kind="stable"):
        for number in order:
            before = reported_classes(patients[number])
            has_spare = counts[patients[number].studies[-1].labels.argmax()] > minimum
            if counts[index] < minimum and has_spare and not before[index]:
                patients[number] = set_last_class(patients[number], int(index), rng)
                counts += reported_classes(patients[number]) - before
    return patients


def reported_classes(patient: Patient) -> np.ndarray:
    """Return 0/1 (n_classes,): which classes are present and reported in any study."""
    return np.max([study.labels * study.reported for study in patient.studies], axis=0).astype(int)


def set_last_class(patient: Patient, index: int, rng: np.random.Generator) -> Patient:
    """Return the patient with this class, present and reported, in the last study."""
    last = patient.studies[-1]
    conspicuity = np.zeros(len(FINDINGS))
    conspicuity[index] = 0.0 if index == NO_FINDING else sample_conspicuity(rng)[index]
    last = replace(last, conspicuity=conspicuity, reported=one_hot(conspicuity))
    return replace(patient, studies=(*patient.studies[:-1], last))
