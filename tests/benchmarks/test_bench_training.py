"""What training and prediction are measured against is the same arithmetic, and a difference is told."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks import training as module
from benchmarks.fold import CLASSES, generated_fold
from benchmarks.setting import Setting
from benchmarks.training import (
    ON_CPU,
    ON_GPU,
    batch_of,
    bench_recipe,
    flops_of_image,
    flops_row,
    label_of,
    predict_rows,
    train_rows,
)
from cxrlt.recipe import override_recipe
from cxrlt.training.batches import batch_stream
from cxrlt.training.loop import train_step
from cxrlt.training.setup import Trainer, create_accelerator, create_trainer

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def few_images_and_one_round(monkeypatch):
    few = dict.fromkeys(("cpu", "cuda"), 64)
    monkeypatch.setattr(module, "LEAST_IMAGES", few)
    monkeypatch.setattr(module, "MATMUL_SIDE", few)
    monkeypatch.setattr(module, "ROUNDS", 1)


def trainer_in(folder) -> Trainer:
    recipe = bench_recipe("demo_resnet")
    return create_trainer(generated_fold(folder, recipe, 64), create_accelerator(recipe))


@pytest.mark.full
def test_training_is_measured_against_its_steps(tmp_path):
    rate = next(train_rows(Setting(tmp_path, 1e-6)))
    assert rate.unit == "images/s"
    assert rate.value > 0 and rate.against.value > 0
    assert rate.limit.value > rate.against.value
    assert rate.target in (0.95, 0.97)
    for words in ("batches of 32", "not compiled", "loader processes", "waiting for data", "backward"):
        assert words in rate.note


def test_arithmetic_is_measured_against_what_the_device_can_multiply(tmp_path):
    trainer = trainer_in(tmp_path)
    flops = flops_of_image(trainer)
    assert 0.5e9 < flops < 3e9
    row = flops_row(trainer, 1000, flops)
    assert row.value == pytest.approx(flops / 1e9)
    assert row.unit == "TFLOP/s"
    assert row.limit.value > 0
    assert row.target is None


def test_the_step_that_training_is_measured_against_is_the_loops(tmp_path):
    ours, alone = trainer_in(tmp_path / "ours"), trainer_in(tmp_path / "alone")
    train_step(ours, next(batch_stream(ours)))
    ((inputs, labels),) = next(batch_stream(alone)).micro_batches()
    device = alone.accelerator.device
    train_step(alone, batch_of(inputs["images"].to(device), labels.to(device), 0))
    for a, b in ((ours.raw_model, alone.raw_model), (ours.ema.module, alone.ema.module)):
        for key, value in a.state_dict().items():
            assert torch.allclose(value, b.state_dict()[key], atol=1e-6), key


def test_prediction_is_measured_against_its_forward_passes(tmp_path):
    (row,) = predict_rows(Setting(tmp_path, 1e-6))
    assert row.unit == "images/s"
    assert row.target == 0.97
    assert row.value > 0 and row.against.value > 0
    assert row.wrong == ""


def test_logits_that_are_not_those_of_the_passes_are_told(tmp_path, monkeypatch):
    real = module.infer
    monkeypatch.setattr(module, "infer", lambda *args, **options: real(*args, **options) + 0.1)
    (row,) = predict_rows(Setting(tmp_path, 1e-6))
    assert "differ by 0.1" in row.wrong
    assert not row.reached


def test_the_parts_of_a_step_are_all_of_it(tmp_path):
    parts = module.Parts(torch.device("cpu"))
    for part in ("start", "forward", "backward", "start", "forward", "backward"):
        parts.mark(part)
    assert set(shares := parts.shares("start")) == {"forward", "backward"}
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", [*ON_CPU, *ON_GPU])
def test_every_line_has_room_for_its_stage(name):
    recipe = bench_recipe(name)
    assert len(f"predict, flip: {label_of(recipe)}") <= 45
    compiled = override_recipe(recipe, {"compile": name == module.COMPILED})
    assert len(f"train FLOPs: {label_of(compiled)}") <= 45
    assert not recipe.model.pretrained


def test_a_generated_fold_has_the_classes_and_images_it_says(tmp_path):
    job = generated_fold(tmp_path, bench_recipe("demo_resnet"), 10)
    assert len(job.data.train) == len(job.data.cache.ids) == 10
    assert job.data.classes == CLASSES
    assert np.isin(job.data.targets(job.data.train), (0, 1)).all()
    assert job.data.cache.images.shape == (10, 96, 96)
    assert job.data.cache.images.std() > 50
    assert job.data.valid.empty


def test_a_recipe_that_asks_for_a_compiler_is_said_to_be_compiled_only_where_there_is_one(
    tmp_path, monkeypatch
):
    def no_compiler(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    recipe = override_recipe(bench_recipe("demo_resnet"), {"compile": True})
    trainer = create_trainer(generated_fold(tmp_path, recipe, 10), create_accelerator(recipe))
    assert not trainer.compiled
    assert "not compiled" in module._conditions(trainer)
    assert "not compiled" not in module._conditions(dataclasses.replace(trainer, compiled=True))
