"""What can be learned from the demo: much from the findings, little from metadata or thumbnails.

`pytest -n 0 -s` prints the figures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxrlt.metrics import auroc, average_precision, macro
from cxrlt.phantom.demo import make_demo
from cxrlt.phantom.findings import CLASSES

pytestmark = pytest.mark.slow

MIMIC_SHARE, READER_NOISE = 0.1, 0.03


@dataclass(frozen=True)
class Tables:
    """The tables of a demo, and the true labels of its test set."""

    folder: Path
    train: pd.DataFrame
    test: pd.DataFrame
    truth: np.ndarray


DEFAULT = pytest.param(None, marks=pytest.mark.full)


@pytest.fixture(scope="module", params=[200, DEFAULT])
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Make a demo with 200 patients, or with the default number."""
    folder = tmp_path_factory.mktemp("root") / "inputs" / "demo"
    make_demo(folder, request.param)
    tables = [pd.read_csv(folder / name, keep_default_na=False) for name in ("train.csv", "test.csv")]
    truth = pd.read_csv(folder / "truth" / "test_clean.csv").set_index("dicom_id")
    return Tables(folder, *tables, truth.loc[tables[1]["dicom_id"], CLASSES].to_numpy(float))


def macro_scores(name: str, truth: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    values = float(macro(average_precision(truth, scores))), float(macro(auroc(truth, scores)))
    print(f"{name}: mAP {values[0]:.4f}, mAUROC {values[1]:.4f}")
    return values


def logistic_scores(demo: Tables, features: Callable[[pd.DataFrame], np.ndarray]) -> np.ndarray:
    """Return test scores of a logistic regression per class, fitted on the noisy training labels."""
    train, test = features(demo.train), features(demo.test)
    models = [make_pipeline(StandardScaler(), LogisticRegression(C=1e-2, max_iter=500)) for _ in CLASSES]
    columns = zip(models, CLASSES, strict=True)
    return np.stack([m.fit(train, demo.train[c]).decision_function(test) for m, c in columns], axis=1)


def metadata(table: pd.DataFrame) -> np.ndarray:
    views = pd.get_dummies(table["ViewPosition"]).reindex(columns=["AP", "PA", "LATERAL", ""], fill_value=0)
    sizes = [table.groupby(key)["dicom_id"].transform("count") for key in ("study_id", "subject_id")]
    studies = table.groupby("subject_id")["study_id"].transform("nunique")
    return np.column_stack([views.to_numpy(float), *sizes, studies])


def oracle(demo: Tables) -> np.ndarray:
    """Return scores of an oracle: the true conspicuity, a tenth of it for mimics, plus small noise.

    The score of No Finding is minus the largest score of all findings except devices.
    """
    drawn = pd.read_csv(demo.folder / "truth" / "conspicuity.csv").rename(columns={"class": "name"})
    row = {image_id: number for number, image_id in enumerate(demo.test["dicom_id"])}
    scores = np.zeros(demo.truth.shape)
    for item in drawn[drawn["dicom_id"].isin(row)].itertuples():
        share = 1.0 if item.kind == "finding" else MIMIC_SHARE
        scores[row[item.dicom_id], CLASSES.index(item.name)] = share * item.conspicuity
    scores += np.random.default_rng(0).normal(0, READER_NOISE, scores.shape)
    none, devices = CLASSES.index("No Finding"), CLASSES.index("Support Devices")
    scores[:, none] = -np.delete(scores, [none, devices], axis=1).max(axis=1)
    return scores


def test_an_oracle_scores_high(demo: Tables) -> None:
    assert macro_scores("oracle", demo.truth, oracle(demo))[0] >= 0.9


def test_metadata_alone_say_little(demo: Tables) -> None:
    assert macro_scores("metadata", demo.truth, logistic_scores(demo, metadata))[1] <= 0.65


def test_thumbnails_alone_say_little(demo: Tables) -> None:
    def thumbnails(table: pd.DataFrame) -> np.ndarray:
        images = (cv2.imread(str(demo.folder / path), cv2.IMREAD_GRAYSCALE) for path in table["path"])
        small = [cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).ravel() for image in images]
        return np.stack(small) / 255

    assert macro_scores("thumbnails", demo.truth, logistic_scores(demo, thumbnails))[1] <= 0.65


@pytest.mark.parametrize("demo", [DEFAULT], indirect=True)  # of few positives the AP is biased upwards
def test_permuted_labels_give_prevalence(demo: Tables) -> None:
    rng, scores = np.random.default_rng(0), oracle(demo)
    draws = [macro(average_precision(rng.permutation(demo.truth), scores)) for _ in range(20)]
    print(f"permuted: mAP {np.mean(draws):.4f}, prevalence {demo.truth.mean():.4f}")
    assert np.mean(draws) == pytest.approx(demo.truth.mean(), abs=0.01)
