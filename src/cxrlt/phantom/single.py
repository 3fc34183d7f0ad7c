"""The patients of the single-label phantom: every study shows one finding, or none."""

from dataclasses import replace
from functools import cache

import numpy as np

from cxrlt.challenges import get_challenge
from cxrlt.phantom.cases import (
    CHRONIC,
    LOADINGS,
    MISSED,
    SINGLE,
    TOP_UP,
    Patient,
    Study,
    bedside_chance,
    draw_conspicuity,
    draw_n_studies,
    draw_study,
    enrol,
    min_patients,
)
from cxrlt.phantom.findings import DRIVERS, FINDINGS, NO_FINDING

SINGLE_FLOOR_SHARE = 0.008


class SingleStudy(Study):
    """A study of one class; what its report misses becomes No Finding."""

    @property
    def labels(self) -> np.ndarray:
        return one_class(self.conspicuity)


def one_class(conspicuity: np.ndarray) -> np.ndarray:
    """The one-hot labels (classes,) of at most one finding, No Finding where there is none."""
    labels = (conspicuity > 0).astype(np.int8)
    labels[NO_FINDING] = not labels.any()
    return labels


def draw_single_patients(n_patients: int, seed: int) -> list[Patient]:
    """All patients, split by split. At least 12 with each class in train and test (a tenth if few)."""
    patients = [draw_single_patient(*who, seed) for who in enrol(n_patients, seed)]
    for split in ("train", "test"):
        patients = top_up_single(patients, split, seed)
    return patients


@cache
def class_shares() -> np.ndarray:
    """Chance (classes,) of each class: its share of all official positives, raised for rare classes."""
    demo = get_challenge("demo-single")
    official = np.array(list(demo.train_counts.values())) / demo.train_images
    return SINGLE_FLOOR_SHARE + (1 - len(official) * SINGLE_FLOOR_SHARE) * official


@cache
def follow_up_shares() -> np.ndarray:
    """Chance of each class where the last one did not stay, such that studies keep the shares of all."""
    leaving = class_shares() * (1 - CHRONIC)
    return leaving / leaving.sum()


def draw_single_patient(number: int, subject_id: str, split: str, seed: int) -> Patient:
    rng = np.random.default_rng([seed, SINGLE, number])
    studies: list[Study] = []
    index, visibility = draw_class(rng, class_shares())
    for _ in range(draw_n_studies(rng)):
        studies.append(draw_single_study(rng, index, visibility))
        if rng.random() >= CHRONIC[index]:
            index, visibility = draw_class(rng, follow_up_shares())
    return Patient(number, subject_id, split, tuple(studies))


def draw_class(rng: np.random.Generator, shares: np.ndarray) -> tuple[int, float]:
    """A class and how conspicuous it is."""
    index = int(rng.choice(len(FINDINGS), p=shares))
    return index, float(draw_conspicuity(rng)[index])


def draw_single_study(rng: np.random.Generator, index: int, visibility: float) -> SingleStudy:
    conspicuity = np.zeros(len(FINDINGS))
    conspicuity[index] = 0.0 if index == NO_FINDING else visibility
    bedside = bedside_chance(LOADINGS[index, DRIVERS.index("critical")])
    study = draw_study(rng, bedside, conspicuity)
    missed = rng.random() < MISSED
    reported = one_class(np.zeros_like(conspicuity) if missed else conspicuity)
    return SingleStudy(study.study_id, study.pictures, conspicuity, reported)


def top_up_single(patients: list[Patient], split: str, seed: int) -> list[Patient]:
    """Change the last study of patients of frequent classes until each class has its minimum of patients.

    Counted are those whose report names the class they have, so that labels and truth both have it.
    """
    patients = list(patients)
    rng = np.random.default_rng([seed, TOP_UP, SINGLE, len(split)])
    order = rng.permutation([patient.number for patient in patients if patient.split == split])
    minimum = min_patients(len(order))
    counts = np.sum([found_classes(patients[number]) for number in order], axis=0)
    for index in np.argsort(counts, kind="stable"):
        for number in order:
            before = found_classes(patients[number])
            spared = counts[patients[number].studies[-1].labels.argmax()] > minimum
            if counts[index] < minimum and spared and not before[index]:
                patients[number] = with_last_class(patients[number], int(index), rng)
                counts += found_classes(patients[number]) - before
    return patients


def found_classes(patient: Patient) -> np.ndarray:
    """0/1 (classes,) of what any study both shows and reports."""
    return np.max([study.labels * study.reported for study in patient.studies], axis=0).astype(int)


def with_last_class(patient: Patient, index: int, rng: np.random.Generator) -> Patient:
    """The patient with the class in the last study, and reported."""
    last = patient.studies[-1]
    conspicuity = np.zeros(len(FINDINGS))
    conspicuity[index] = 0.0 if index == NO_FINDING else draw_conspicuity(rng)[index]
    last = replace(last, conspicuity=conspicuity, reported=one_class(conspicuity))
    return replace(patient, studies=(*patient.studies[:-1], last))
