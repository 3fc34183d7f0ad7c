import numpy as np
import pytest

from cxrlt.challenges import get_challenge
from cxrlt.phantom.cases import FAINT_SHARE, MIN_PATIENTS, Patient, sample_patient, sample_patients
from cxrlt.phantom.demo import N_PATIENTS
from cxrlt.phantom.findings import CLASSES, DEVICES, NO_FINDING


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return sample_patients(N_PATIENTS, seed=0)


@pytest.fixture(scope="module")
def many_patients() -> list[Patient]:
    return sample_patients(3000, seed=0)


def study_labels(patients: list[Patient]) -> np.ndarray:
    return np.stack([study.labels for patient in patients for study in patient.studies])


def study_reports(patients: list[Patient]) -> np.ndarray:
    return np.stack([study.reported for patient in patients for study in patient.studies])


def is_bedside(patients: list[Patient]) -> np.ndarray:
    return np.array([study.images[0].view == "AP" for patient in patients for study in patient.studies])


def column(labels: np.ndarray, name: str) -> np.ndarray:
    return labels[:, CLASSES.index(name)] == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_class_has_its_minimum_of_patients_in_truth_and_reports(
    patients: list[Patient], split: str
) -> None:
    chosen = [patient for patient in patients if patient.split == split]
    true = np.stack([np.any([study.labels for study in patient.studies], 0) for patient in chosen])
    said = np.stack([np.any([study.reported for study in patient.studies], 0) for patient in chosen])
    assert true.sum(0).min() >= MIN_PATIENTS
    assert said.sum(0).min() >= MIN_PATIENTS


def test_a_small_demo_spreads_rare_findings_over_its_few_patients() -> None:
    patients = [patient for patient in sample_patients(45, seed=0) if patient.split == "test"]
    reported = np.stack([np.any([study.reported for study in patient.studies], 0) for patient in patients])
    assert np.delete(reported.sum(0), NO_FINDING).min() >= 2
    assert reported.sum(1).mean() < 10


def test_the_splits_have_the_sizes_of_the_demo(patients: list[Patient]) -> None:
    images = dict.fromkeys(("train", "development", "test"), 0)
    for patient in patients:
        images[patient.split] += sum(len(study.images) for study in patient.studies)
    assert images["train"] == pytest.approx(1500, rel=0.07)
    assert images["development"] == pytest.approx(400, rel=0.07)
    assert images["test"] == pytest.approx(1500, rel=0.07)


def test_ids_are_unique(patients: list[Patient]) -> None:
    studies = [study for patient in patients for study in patient.studies]
    images = [image.dicom_id for study in studies for image in study.images]
    assert len({patient.subject_id for patient in patients}) == len(patients)
    assert len({study.study_id for study in studies}) == len(studies)
    assert len(set(images)) == len(images)


def test_the_long_tail_follows_the_official_counts(patients: list[Patient]) -> None:
    share, challenge = study_labels(patients).mean(0), get_challenge("demo")
    official = np.array(list(challenge.train_counts.values())) / challenge.train_images
    assert np.corrcoef(share, official)[0, 1] > 0.97
    groups = [np.mean([share[CLASSES.index(name)] for name in names]) for names in challenge.groups.values()]
    assert groups == sorted(groups, reverse=True)


def test_no_finding_can_only_occur_with_devices(patients: list[Patient]) -> None:
    for labels in (study_labels(patients), study_reports(patients)):
        others = np.delete(labels, [NO_FINDING, DEVICES], axis=1).any(axis=1)
        assert np.array_equal(labels[:, NO_FINDING] == 1, ~others)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Edema", "Cardiomegaly"), ("Pneumothorax", "Support Devices"), ("Mass", "Nodule")],
)
def test_findings_that_belong_together_occur_together(
    many_patients: list[Patient], one: str, other: str
) -> None:
    labels = study_labels(many_patients)
    together = (column(labels, one) & column(labels, other)).mean()
    assert together > 1.3 * column(labels, one).mean() * column(labels, other).mean()


@pytest.mark.parametrize("name", ["Edema", "Support Devices"])
def test_bedside_images_have_more_edema_and_devices(patients: list[Patient], name: str) -> None:
    found, bedside = column(study_labels(patients), name), is_bedside(patients)
    assert found[bedside].mean() > 1.15 * found[~bedside].mean()


def test_reports_have_the_documented_label_noise(many_patients: list[Patient]) -> None:
    true, said = (np.delete(f(many_patients), NO_FINDING, axis=1) for f in (study_labels, study_reports))
    assert (said[true == 1] == 0).mean() == pytest.approx(0.10, abs=0.01)
    assert (said[true == 0] == 1).mean() == pytest.approx(0.005, abs=0.0007)


def test_about_one_finding_in_six_is_nearly_invisible(patients: list[Patient]) -> None:
    plain = np.concatenate([study.conspicuity for patient in patients for study in patient.studies])
    plain = plain[plain > 0]
    assert (plain < 0.2).mean() == pytest.approx(FAINT_SHARE, abs=0.03)
    assert plain[plain >= 0.2].min() >= 0.4


def test_a_patient_depends_on_number_and_seed_only() -> None:
    one, again, other = (sample_patient(5, "10000032", "train", seed) for seed in (0, 0, 1))
    assert [study.images for study in one.studies] == [study.images for study in again.studies]
    assert np.array_equal(study_reports([one]), study_reports([again]))
    assert one.studies[0].images != other.studies[0].images
