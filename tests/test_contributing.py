"""The examples of CONTRIBUTING.md work as they are written."""

import re

import numpy as np
import pytest
import torch

from contributing import EXAMPLES, PAGE, add_examples
from cxrlt.challenges import get_challenge
from cxrlt.experiments.lists import tricks
from cxrlt.heads import create_head
from cxrlt.heads.pools import AveragePool
from cxrlt.losses import create_loss
from cxrlt.metrics.ranking import ranking_values
from cxrlt.recipe import load_recipe


@pytest.fixture(autouse=True)
def examples(add_module, tmp_path, monkeypatch):
    add_examples(add_module, tmp_path, monkeypatch)


@pytest.mark.parametrize("section", [section for section, _ in EXAMPLES], ids=str)
def test_every_example_is_under_30_lines(section):
    lines = [line for _, text in PAGE.files(section) for line in text.splitlines() if line.strip()]
    assert 0 < len(lines) < 30


def test_the_loss():
    loss = create_loss("brier", classes=["a"], class_counts={"a": 1}, n_samples=2)
    logits = torch.tensor([[0.0], [1.0]])
    p = torch.sigmoid(logits)
    assert float(loss(logits, torch.ones(2, 1))) == pytest.approx(float(((1 - p) ** 2).mean()))
    assert float(loss(logits, torch.zeros(2, 1))) == pytest.approx(float((p**2).mean()))


def test_the_head():
    head = create_head("hidden", {"width": 3}, 5, 2, pool=AveragePool)
    assert head(torch.randn(4, 6, 5)).shape == (4, 2)
    assert head.bias.shape == (2,)


def test_the_metric():
    random = np.random.default_rng(0)
    values = ranking_values(random.integers(0, 2, (50, 3)), random.random((50, 3)), ["mAUROC", "mSomersD"])
    assert values["mSomersD"] == pytest.approx(2 * values["mAUROC"] - 1)


def test_the_challenge(tmp_path):
    (tmp_path / "train.csv").write_text(
        "image,patient,path,Effusion,Mass,Hernia\na,p,a.png,1,0,\nb,q,b.png,0,0,1\n"
    )
    table = get_challenge("mine").read("train", tmp_path)
    assert table.index.tolist() == ["a", "b"]
    assert table["patient"].tolist() == ["p", "q"]
    assert table["Hernia"].isna().tolist() == [True, False]


def test_the_recipe():
    assert load_recipe("demo_resnet26").model.backbone == "resnet26t"


def test_the_trick(monkeypatch):
    monkeypatch.setattr(tricks, "TRICKS", {})
    (call,) = re.findall(r"^register_trick\(.*\)$", PAGE.text, flags=re.M)
    exec(compile(call, "CONTRIBUTING.md", "exec"), {"register_trick": tricks.register_trick})
    (variant,) = tricks.TRICKS.values()
    assert variant.recipe(load_recipe("demo_resnet")).model.drop_rate == 0.3
