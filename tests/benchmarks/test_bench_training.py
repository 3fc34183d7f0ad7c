"""The baselines of training and prediction compute the same, and a difference is reported."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks import training as module
from benchmarks.config import BenchmarkConfig
from benchmarks.synthetic_fold import CLASSES, make_synthetic_fold
from benchmarks.training import (
    CPU_RECIPES,
    GPU_RECIPES,
    bench_recipe,
    device_batch,
    flops_per_image,
    measure_flops,
    measure_predict,
    measure_train,
    recipe_label,
)
from cxrlt.recipe import override_recipe
from cxrlt.training.batches import batch_stream
from cxrlt.training.loop import train_step
from cxrlt.training.setup import Trainer, create_accelerator, create_trainer

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def few_images_and_one_round(monkeypatch):
    few = dict.fromkeys(("cpu", "cuda"), 64)
    monkeypatch.setattr(module, "MIN_IMAGES", few)
    monkeypatch.setattr(module, "MATMUL_SIDE", few)
    monkeypatch.setattr(module, "N_ROUNDS", 1)


def trainer_in(folder) -> Trainer:
    recipe = bench_recipe("demo_resnet")
    return create_trainer(make_synthetic_fold(folder, recipe, 64), create_accelerator(recipe))


@pytest.mark.full
def test_training_is_measured_against_its_steps(tmp_path):
    rate = next(measure_train(BenchmarkConfig(tmp_path, 1e-6)))
    assert rate.unit == "images/s"
    assert rate.value > 0 and rate.baseline.value > 0
    assert rate.limit.value > rate.baseline.value
    assert rate.target in (0.95, 0.97)
    for words in ("batches of 32", "not compiled", "loader processes", "waiting for data", "backward"):
        assert words in rate.note


def test_arithmetic_is_measured_against_what_the_device_can_multiply(tmp_path):
    trainer = trainer_in(tmp_path)
    flops = flops_per_image(trainer)
    assert 0.5e9 < flops < 3e9
    row = measure_flops(trainer, 1000, flops)
    assert row.value == pytest.approx(flops / 1e9)
    assert row.unit == "TFLOP/s"
    assert row.limit.value > 0
    assert row.target is None


def test_the_baseline_step_equals_the_step_of_the_training_loop(tmp_path):
    ours, alone = trainer_in(tmp_path / "ours"), trainer_in(tmp_path / "alone")
    train_step(ours, next(batch_stream(ours)))
    ((inputs, labels),) = next(batch_stream(alone)).micro_batches()
    device = alone.accelerator.device
    train_step(alone, device_batch(inputs["images"].to(device), labels.to(device), 0))
    for a, b in ((ours.raw_model, alone.raw_model), (ours.ema.module, alone.ema.module)):
        for key, value in a.state_dict().items():
            assert torch.allclose(value, b.state_dict()[key], atol=1e-6), key


def test_prediction_is_measured_against_its_forward_passes(tmp_path):
    (row,) = measure_predict(BenchmarkConfig(tmp_path, 1e-6))
    assert row.unit == "images/s"
    assert row.target == 0.97
    assert row.value > 0 and row.baseline.value > 0
    assert row.error == ""


def test_logits_that_differ_from_the_passes_are_reported(tmp_path, monkeypatch):
    real = module.infer
    monkeypatch.setattr(module, "infer", lambda *args, **options: real(*args, **options) + 0.1)
    (row,) = measure_predict(BenchmarkConfig(tmp_path, 1e-6))
    assert "differ by 0.1" in row.error
    assert not row.meets_target


def test_the_parts_of_a_step_are_all_of_it(tmp_path):
    parts = module.StepTimer(torch.device("cpu"))
    for part in ("start", "forward", "backward", "start", "forward", "backward"):
        parts.mark(part)
    assert set(shares := parts.shares("start")) == {"forward", "backward"}
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", [*CPU_RECIPES, *GPU_RECIPES])
def test_every_line_has_room_for_its_stage(name):
    recipe = bench_recipe(name)
    assert len(f"predict, flip: {recipe_label(recipe)}") <= 45
    compiled = override_recipe(recipe, {"compile": name == module.COMPILED_RECIPE})
    assert len(f"train FLOPs: {recipe_label(compiled)}") <= 45
    assert not recipe.model.pretrained


def test_a_generated_fold_has_the_classes_and_images_it_says(tmp_path):
    job = make_synthetic_fold(tmp_path, bench_recipe("demo_resnet"), 10)
    assert len(job.data.train) == len(job.data.cache.ids) == 10
    assert job.data.classes == CLASSES
    assert np.isin(job.data.targets(job.data.train), (0, 1)).all()
    assert job.data.cache.images.shape == (10, 96, 96)
    assert job.data.cache.images.std() > 50
    assert job.data.valid.empty


def test_a_recipe_with_compile_is_described_as_compiled_only_if_compiling_works(tmp_path, monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    recipe = override_recipe(bench_recipe("demo_resnet"), {"compile": True})
    trainer = create_trainer(make_synthetic_fold(tmp_path, recipe, 10), create_accelerator(recipe))
    assert not trainer.compiled
    assert "not compiled" in module._describe_conditions(trainer)
    assert "not compiled" not in module._describe_conditions(dataclasses.replace(trainer, compiled=True))
