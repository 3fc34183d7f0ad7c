import base64
import re

import numpy as np
import pandas as pd
import pytest
import torch

from cxrlt.experiments.compare import compare
from cxrlt.experiments.figures import PROBABILITIES, loss_curve
from cxrlt.experiments.lists.losses import LossExperiment
from cxrlt.losses import create_loss, loss_names

pytestmark = pytest.mark.slow

COUNTS = {"a": 300, "b": 30, "c": 3}


def test_the_page_needs_no_other_file(finished_losses):
    _, folder, _ = finished_losses
    page = (folder / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    embedded = re.findall(r"data:image/png;base64,([^\"]+)", page)
    files = {path.read_bytes() for path in (folder / "figures").glob("*.png")}
    assert {base64.b64decode(code) for code in embedded} == files
    assert len(files) == 8  # a truth that is the labels themselves draws the same again


@pytest.mark.full
def test_the_sensitivity_experiment_says_how_far_settings_move_the_score(source, make_losses_plan):
    text = compare(LossExperiment(source, make_losses_plan(losses=None, ablation="ral_sensitivity")))
    folder = source.workspace.submission_dir("csv", "compare-ral_sensitivity")
    results = pd.read_csv(folder / "results.csv")
    assert len(results) == 14
    assert results["lr"].nunique() == 1
    own = results[results["variant"].str.startswith("no-hill")]["mAP"]
    row = next(line for line in text.splitlines() if line.startswith("| no-hill | 7 |"))
    assert f"{own.min():.3f} | {own.max():.3f} | {own.std():.3f}" in row
    assert (folder / "figures" / "sensitivity_labels.png").is_file()


@pytest.mark.parametrize("name", loss_names())
def test_a_curve_falls_for_positives_and_rises_for_negatives(name):
    loss = create_loss(name, classes=list(COUNTS), class_counts=COUNTS, n_samples=1000)
    positive, negative = loss_curve(loss, 1, PROBABILITIES, 3)
    assert positive.shape == negative.shape == PROBABILITIES.shape
    assert np.isfinite(positive).all()
    assert np.isfinite(negative).all()
    assert (np.diff(positive) <= 1e-9).all()
    assert (np.diff(negative) >= -1e-9).all()


def test_curves_of_cross_entropy_are_its_formula():
    for name in ("bce", "ce"):
        loss = create_loss(name, classes=list(COUNTS), class_counts=COUNTS, n_samples=1000)
        positive, negative = loss_curve(loss, 0, PROBABILITIES, 3)
        np.testing.assert_allclose(positive, -np.log(PROBABILITIES), rtol=1e-9)
        lift = 0 if name == "bce" else np.log1p(-PROBABILITIES[0])
        np.testing.assert_allclose(negative, -np.log1p(-PROBABILITIES) + lift, atol=1e-9)


def test_curves_are_over_the_probabilities_of_scaled_logits():
    loss = create_loss(
        "ldam", classes=list(COUNTS), class_counts=COUNTS, n_samples=1000, max_margin=0.0, scale=30
    )
    positive, _ = loss_curve(loss, 2, PROBABILITIES, 3)
    torch.testing.assert_close(torch.tensor(positive), torch.tensor(-np.log(PROBABILITIES)))
