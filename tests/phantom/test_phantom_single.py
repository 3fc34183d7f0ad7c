import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.errors import UserError
from cxrlt.inputs.check import check
from cxrlt.phantom.cases import MIN_PATIENTS, Patient
from cxrlt.phantom.demo import N_PATIENTS, make_demo
from cxrlt.phantom.findings import CLASSES, NO_FINDING
from cxrlt.phantom.single import class_shares, sample_single_patients

pytestmark = pytest.mark.slow

CHALLENGE = get_challenge("demo-single")
MIMIC_SHARE = 0.1


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return sample_single_patients(N_PATIENTS, seed=0)


@pytest.fixture(scope="module")
def many_patients() -> list[Patient]:
    return sample_single_patients(4000, seed=0)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Make a small demo-single."""
    place = Workspace(tmp_path_factory.mktemp("root"))
    make_demo(place.inputs_dir("demo-single"), 60, challenge="demo-single", workers=1)
    return place


def study_classes(patients: list[Patient], what: str = "labels") -> np.ndarray:
    """Return the class index of every study; fails if a study does not have exactly one class."""
    labels = np.stack([getattr(study, what) for patient in patients for study in patient.studies])
    assert (labels.sum(axis=1) == 1).all() and np.isin(labels, (0, 1)).all()
    return labels.argmax(axis=1)


def test_every_study_has_exactly_one_class_in_truth_and_report(patients: list[Patient]) -> None:
    true, said = study_classes(patients), study_classes(patients, "reported")
    assert set(true) == set(said) == set(range(len(CLASSES)))


def test_what_a_study_shows_is_its_class(patients: list[Patient]) -> None:
    for study in (study for patient in patients for study in patient.studies):
        shown = np.flatnonzero(study.conspicuity)
        assert list(shown) == ([] if study.labels[NO_FINDING] else [study.labels.argmax()])


def test_reports_miss_one_finding_in_ten_and_invent_none(many_patients: list[Patient]) -> None:
    true, said = study_classes(many_patients), study_classes(many_patients, "reported")
    assert (said[true == NO_FINDING] == NO_FINDING).all()
    found = true != NO_FINDING
    assert set(said[found & (said != true)]) == {NO_FINDING}
    assert (said[found] != true[found]).mean() == pytest.approx(0.10, abs=0.01)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_class_has_its_minimum_of_patients_in_truth_and_reports(
    patients: list[Patient], split: str
) -> None:
    chosen = [patient for patient in patients if patient.split == split]
    for what in ("labels", "reported"):
        any_study = [np.any([getattr(s, what) for s in patient.studies], axis=0) for patient in chosen]
        assert np.sum(any_study, axis=0).min() >= MIN_PATIENTS


def test_the_shares_follow_the_official_counts(many_patients: list[Patient]) -> None:
    shares = np.bincount(study_classes(many_patients), minlength=len(CLASSES))
    shares = shares / shares.sum()
    assert np.corrcoef(shares, class_shares())[0, 1] > 0.99
    official = np.array(list(CHALLENGE.train_counts.values())) / CHALLENGE.train_images
    assert class_shares().sum() == pytest.approx(1) and official.sum() == pytest.approx(1)
    assert np.array_equal(np.argsort(class_shares()), np.argsort(official))
    assert shares.max() > 8 * shares.min()


def test_a_lasting_finding_comes_back_in_the_next_study(many_patients: list[Patient]) -> None:
    fibrosis, pneumonia = CLASSES.index("Fibrosis"), CLASSES.index("Pneumonia")
    pairs = np.array(
        [
            [one.labels.argmax(), other.labels.argmax()]
            for patient in many_patients
            for one, other in zip(patient.studies, patient.studies[1:], strict=False)
        ]
    )
    kept = [(pairs[pairs[:, 0] == index, 1] == index).mean() for index in (fibrosis, pneumonia)]
    assert kept[0] > 0.7 and kept[1] < 0.5


def test_the_splits_have_the_sizes_of_the_demo(patients: list[Patient]) -> None:
    images = dict.fromkeys(("train", "development", "test"), 0)
    for patient in patients:
        images[patient.split] += sum(len(study.images) for study in patient.studies)
    assert images == pytest.approx({"train": 1500, "development": 400, "test": 1500}, rel=0.07)


def test_the_challenge_reads_what_was_made_as_one_hot_tables(workspace: Workspace) -> None:
    folder = workspace.inputs_dir("demo-single")
    train = CHALLENGE.read("train", folder)
    assert (train[list(CHALLENGE.classes)].sum(axis=1) == 1).all()
    assert CHALLENGE.task == "single_label" and CHALLENGE.metric == "macro-F1"
    for split in ("dev", "test"):
        table = CHALLENGE.read(split, folder)
        assert table[list(CHALLENGE.classes)].isna().all(axis=None)
        assert CHALLENGE.template(split, folder) == list(table.index)
    report = check(CHALLENGE, workspace)
    assert "No problem found" in report and "No patient of train is in dev or test" in report


def test_the_images_agree_with_the_truth(workspace: Workspace) -> None:
    truth = workspace.inputs_dir("demo-single") / "truth"
    clean = pd.concat([pd.read_csv(truth / f"{s}_clean.csv", index_col=0) for s in ("train", "test")])
    drawn = pd.read_csv(truth / "conspicuity.csv")
    found = drawn[(drawn["kind"] == "finding") & drawn["dicom_id"].isin(clean.index)]
    named = clean.idxmax(axis=1)
    assert found["dicom_id"].is_unique
    assert dict(zip(found["dicom_id"], found["class"], strict=True)) == dict(named[named != "No Finding"])


def test_an_oracle_separates_the_classes(workspace: Workspace) -> None:
    """The oracle uses the conspicuity, a tenth of it for mimics, and 0.05 for No Finding."""
    truth = workspace.inputs_dir("demo-single") / "truth"
    clean = pd.read_csv(truth / "test_clean.csv", index_col=0)
    drawn = pd.read_csv(truth / "conspicuity.csv").query("dicom_id in @clean.index")
    weight = drawn["conspicuity"] * np.where(drawn["kind"] == "finding", 1.0, MIMIC_SHARE)
    seen = weight.groupby([drawn["dicom_id"], drawn["class"]]).max().unstack(fill_value=0.0)
    seen = seen.reindex(index=clean.index, columns=list(CLASSES), fill_value=0.0)
    seen["No Finding"] = 0.05
    actual, read = clean.to_numpy().argmax(1), seen.to_numpy().argmax(1)
    chance = np.random.default_rng(0).permutation(actual)
    assert f1_score(actual, read, average="macro") > 0.85
    assert f1_score(actual, chance, average="macro") < 0.2


def test_the_two_demos_are_told_apart(workspace: Workspace) -> None:
    folder = workspace.inputs_dir("demo-single")
    assert "already done" in make_demo(folder, challenge="demo-single")
    with pytest.raises(UserError, match=r"another demo \(version single-1, not 1\)"):
        make_demo(folder)
