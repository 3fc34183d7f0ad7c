"""Backbones of many families: every head works, or the error suggests a change that works."""

import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TOOL = Path(__file__).parents[2] / "tools" / "check_backbones.py"
BACKBONES = ["test_vit", "swin_tiny_patch4_window7_224", "test_efficientnet", "resnet10t", "mixer_s32_224"]
MORE = ["coat_tiny", "convnext_atto", "edgenext_xx_small", "test_maxvit", "fastvit_t8"]


@pytest.fixture(scope="module")
def check():
    return runpy.run_path(str(TOOL))["check"]


@pytest.mark.parametrize(
    "backbone", [*BACKBONES, *(pytest.param(name, marks=pytest.mark.full) for name in MORE)]
)
def test_a_backbone_works_or_the_error_suggests_a_change_that_works(check, backbone):
    result = check(backbone, sizes=(100,), heads=("linear", "csra"))
    assert result.errors == []
    assert set(result.outcomes.values()) <= {"works", "refused"}
