"""A challenge of a few small pictures, real down to its files, for tests that run whole stages."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from cxrlt.artifacts import Workspace
from cxrlt.challenges import get_challenge
from cxrlt.challenges.base import Task
from cxrlt.folds.make import make_folds
from cxrlt.inputs.images import ImageSource
from cxrlt.recipe import Recipe, load_recipe
from cxrlt.training.job import FoldJob

CLASSES = ["Disc", "Bar", "Rare disc"]
SPEC = """
train: train.csv
dev: dev.csv
test: test.csv
id: image
patient: patient
study: study
view: view
path: path
classes: [Disc, Bar, Rare disc]
"""


def make_tiny(
    root: Path, n_patients: int = 24, n_folds: int = 3, seed: int = 0, task: Task = "multi_label"
) -> ImageSource:
    """Pictures, tables and folds of a `csv` challenge below `root`: two images per patient and study.

    As a single-label task every image shows one of the classes, and macro-F1 judges.
    """
    inputs = root / "inputs" / "csv"
    rng = np.random.default_rng(seed)
    inputs.mkdir(parents=True)
    (inputs / "challenge.yaml").write_text(SPEC)
    for split, first in (("train", 0), ("dev", 1000), ("test", 2000)):
        patients = range(first, first + n_patients)
        rows = [_image(inputs, rng, p, view, task) for p in patients for view in ("PA", "LATERAL")]
        table = pd.DataFrame(rows)
        if split == "test":
            table = table.drop(columns=CLASSES)
        table.to_csv(inputs / f"{split}.csv", index=False)
    source = tiny_source(root, task)
    make_folds(source.challenge, source.workspace, n_folds, seed=0)
    return source


def tiny_source(root: Path, task: Task = "multi_label") -> ImageSource:
    """What `make_tiny` made below `root`."""
    workspace = Workspace(root)
    challenge = get_challenge("csv", workspace.inputs_dir("csv"))
    if task == "single_label":
        challenge = dataclasses.replace(challenge, task=task, metric="macro-F1")
    return ImageSource(challenge, workspace)


def tiny_recipe(**over: object) -> Recipe:
    """A network of a few thousand weights on 32 px for two epochs; `over` as {"optim.lr": 1e-3}."""
    values = load_recipe("demo_resnet").model_dump()
    fields: dict[str, object] = {
        "model.backbone": "test_convnext",
        "data.size": 32,
        "schedule.epochs": 2,
        "optim.lr": 2e-3,
        "optim.batch_size": 8,
        "optim.ema_share": 0.5,  # at its default the average of so few updates is the last one
        **over,
    }
    for key, value in fields.items():
        section, name = key.split(".", 1) if "." in key else (None, key)
        (values[section] if section else values)[name] = value
    return Recipe.model_validate(values)


def weights_of(job: FoldJob) -> dict[str, torch.Tensor]:
    """What the finished fold was trained to."""
    return load_file(job.run_dir / "weights.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _image(inputs: Path, rng: np.random.Generator, patient: int, view: str, task: Task) -> dict[str, object]:
    picture = rng.integers(20, 60, (40, 36)).astype(np.uint8)
    study_rng = np.random.default_rng(patient)  # labels belong to the study
    labels = study_rng.random(3) < (0.5, 0.4, 0.2)
    if task == "single_label":
        labels = np.eye(3, dtype=bool)[study_rng.choice(3, p=(0.5, 0.3, 0.2))]
    centre = tuple(int(v) for v in rng.integers(10, 26, 2))
    for present, radius in ((labels[0], 7), (labels[2], 3)):
        if present:
            cv2.circle(picture, centre, radius, 220, -1)
    if labels[1]:
        cv2.line(picture, (0, centre[1]), (35, centre[1]), 160, 3)
    image_id = f"{patient:05d}_{view.lower()}"
    path = inputs / "pictures" / f"{image_id}.png"
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), picture)
    row = {"image": image_id, "patient": f"p{patient}", "study": f"s{patient}", "view": view}
    row["path"] = f"pictures/{image_id}.png"
    return row | dict(zip(CLASSES, labels.astype(int), strict=True))
