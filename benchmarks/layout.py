"""CXR-LT 2024, task 1, made up: its tables at any size, and files without a picture where they say."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from benchmarks.synthetic import long_tailed, patients
from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Challenge

CHALLENGE = "cxrlt2024-task1"
ROWS, PATIENTS = 377_110, 65_000
TRAIN, DEV, TEST = 258_871, 39_293, 78_946
"""Images of the official splits, which together are all of MIMIC-CXR-JPG."""
NEW_STUDY = 0.52
"""How often the next image of a patient is of another study: 227,000 studies in all."""
PROJECTIONS = ("AP", "PA", "LATERAL", "LL", "")


def challenge() -> Challenge:
    return get_challenge(CHALLENGE)


def n_patients(n: int) -> int:
    return max(round(n * PATIENTS / ROWS), 10)


def draw_images(n: int, seed: int = 0) -> pd.DataFrame:
    """What the tables say of n images but for their labels, a patient's images together."""
    rng = np.random.default_rng(seed)
    patient = 10_000_000 + patients(n, n_patients(n), seed)
    first = np.r_[True, (patient[1:] != patient[:-1]) | (rng.random(n - 1) < NEW_STUDY)]
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
    """A test table of n images, and no other."""
    write_table(draw_images(n), workspace.inputs_dir(CHALLENGE) / "test_task1.csv")


def write_tables(workspace: Workspace, n: int, seed: int = 0) -> pd.Series:
    """The tables of all splits, n images in them, no patient in two. Returns the paths of their images."""
    images = draw_images(n, seed)
    split = _split_of(images["subject_id"].to_numpy(), seed)
    known = challenge()
    labels, _ = long_tailed(n, known.train_counts, known.train_images, seed)
    labelled = pd.concat([images, pd.DataFrame(labels.astype(np.int8), columns=list(known.classes))], axis=1)
    inputs = workspace.inputs_dir(CHALLENGE)
    write_table(labelled[split == 0], inputs / "train_labeled.csv")
    write_table(images[split == 1], inputs / "development.csv")
    write_table(images[split == 2], inputs / "test_task1.csv")
    return images["fpath"]


def write_images(root: Path, paths: pd.Series, n_bytes: int = 0) -> None:
    """A file of so many bytes for every path below `root`."""
    made = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        if folder not in made:
            (root / folder).mkdir(parents=True, exist_ok=True)
            made.add(folder)
        file = os.open(root / path, os.O_CREAT | os.O_WRONLY)
        os.truncate(file, n_bytes)
        os.close(file)


def _split_of(patient: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The place (n,) of each image's split among train, dev and test; each has some patient."""
    codes, found = pd.factorize(patient)
    shares = np.array([TRAIN, DEV, TEST]) / ROWS
    split = np.random.default_rng(seed).choice(3, len(found), p=shares)
    split[:3] = range(3)
    return split[codes]


def write_table(table: pd.DataFrame, path: Path) -> None:
    """As CSV, in folders that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.csv.write_csv(pa.Table.from_pandas(table, preserve_index=False), path)
