"""Synthetic CXR-LT 2024, task 1: tables of any size, and empty image files."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from benchmarks.synthetic import make_long_tailed, make_patients
from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge

CHALLENGE = "cxrlt2024-task1"
ROWS, PATIENTS = 377_110, 65_000
TRAIN, DEV, TEST = 258_871, 39_293, 78_946
"""Number of images in the official splits; together all of MIMIC-CXR-JPG."""
NEW_STUDY_PROBABILITY = 0.52
"""Probability that a patient's next image starts a new study: gives 227,000 studies, as in MIMIC-CXR."""
PROJECTIONS = ("AP", "PA", "LATERAL", "LL", "")


def load_challenge() -> Challenge:
    """Return the challenge whose files are imitated."""
    return get_challenge(CHALLENGE)


def n_patients(n: int) -> int:
    """Return the number of patients of `n` images, in the ratio of MIMIC-CXR."""
    return max(round(n * PATIENTS / ROWS), 10)


def make_image_table(n: int, seed: int = 0) -> pd.DataFrame:
    """Return a table of n images without labels, sorted by patient (columns as in the challenge's files)."""
    rng = np.random.default_rng(seed)
    patient = 10_000_000 + make_patients(n, n_patients(n), seed)
    first = np.r_[True, (patient[1:] != patient[:-1]) | (rng.random(n - 1) < NEW_STUDY_PROBABILITY)]
    study = 50_000_000 + np.cumsum(first)
    words = rng.integers(0, 2**32, size=(n, 5)).tolist()
    ids = ["-".join(f"{word:08x}" for word in row) for row in words]
    paths = [
        f"files/p{p // 1_000_000}/p{p}/s{s}/{i}.jpg"
        for p, s, i in zip(patient.tolist(), study.tolist(), ids, strict=True)
    ]
    view = rng.choice(PROJECTIONS, n)
    columns = {
        "dicom_id": ids,
        "subject_id": patient,
        "study_id": study,
        "ViewPosition": view,
        "fpath": paths,
    }
    return pd.DataFrame(columns)


def write_test_table(workspace: Workspace, n: int) -> None:
    """Write only the test table, with n images."""
    write_table(make_image_table(n), workspace.inputs_dir(CHALLENGE) / "test_task1.csv")


def write_tables(workspace: Workspace, n: int, seed: int = 0) -> pd.Series:
    """Write the tables of all splits, n images in total, split by patient. Return the image paths (n,)."""
    images = make_image_table(n, seed)
    split = _split_of(images["subject_id"].to_numpy(), seed)
    challenge = load_challenge()
    labels, _ = make_long_tailed(n, challenge.train_counts, challenge.train_images, seed)
    labelled = pd.concat(
        [images, pd.DataFrame(labels.astype(np.int8), columns=list(challenge.classes))], axis=1
    )
    inputs = workspace.inputs_dir(CHALLENGE)
    write_table(labelled[split == 0], inputs / "train_labeled.csv")
    write_table(images[split == 1], inputs / "development.csv")
    write_table(images[split == 2], inputs / "test_task1.csv")
    return images["fpath"]


def write_images(root: Path, paths: pd.Series, n_bytes: int = 0) -> None:
    """Write a file of `n_bytes` zeros at every path below `root`."""
    created = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        if folder not in created:
            (root / folder).mkdir(parents=True, exist_ok=True)
            created.add(folder)
        file = os.open(root / path, os.O_CREAT | os.O_WRONLY)
        os.truncate(file, n_bytes)
        os.close(file)


def _split_of(patient: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the split (n,) of each image: 0 train, 1 dev, 2 test. No split is empty."""
    codes, unique_patients = pd.factorize(patient)
    shares = np.array([TRAIN, DEV, TEST]) / ROWS
    split = np.random.default_rng(seed).choice(3, len(unique_patients), p=shares)
    split[:3] = range(3)
    return split[codes]


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.csv.write_csv(pa.Table.from_pandas(table, preserve_index=False), path)
