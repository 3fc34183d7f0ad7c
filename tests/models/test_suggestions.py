"""What is named instead of a size, pool or head that does not fit has been tried."""

import pytest

from cxrlt.models.suggestions import suggest_fix
from cxrlt.recipe import ModelConfig


def cfg(**over):
    return ModelConfig(**{"backbone": "test_vit", "pretrained": False, **over})


def multiples_of(step):
    return lambda _, size: size % step == 0


def test_sizes_near_are_named_below_and_above():
    assert suggest_fix(cfg(), 200, multiples_of(16)) == "Sizes that fit: 192 and 208."
    assert (
        suggest_fix(cfg(), 512, lambda _, size: size % 14 == 0 or size == 160)
        == "Sizes that fit: 504 and 518."
    )
    assert suggest_fix(cfg(), 200, lambda _, size: size % 2 or size == 160) == "Sizes that fit: 199 and 201."


def test_no_size_below_the_smallest_of_a_recipe_is_named():
    assert suggest_fix(cfg(), 40, multiples_of(16)) == "Sizes that fit: 32 and 48."
    assert suggest_fix(cfg(), 33, lambda _, size: size in (16, 48, 160)) == "Sizes that fit: 48."


def test_the_backbones_own_size_is_named_where_none_is_near():
    assert suggest_fix(cfg(), 400, lambda _, size: size == 160) == "Sizes that fit: 160."


@pytest.mark.parametrize(
    ("over", "other", "choice"),
    [
        ({}, "average", "model.pool average"),
        ({"pool": "gem"}, "backbone", "model.pool backbone"),
        ({"head": {"name": "cosine"}}, "average", "model.pool average"),
        ({"head": {"name": "csra"}}, "linear", "model.head.name linear"),
        ({"fusion": {"max_images": 2}}, 1, "model.fusion.max_images 1"),
    ],
)
def test_another_pool_or_head_is_named_where_no_size_helps(over, other, choice):
    def fits(cfg, size):
        return other in (cfg.pool, cfg.head.name, cfg.fusion.max_images) and cfg != wanted and size in sizes

    wanted, sizes = cfg(**over), (96, 160)
    assert suggest_fix(wanted, 96, fits) == f"Use {choice}."
    sizes = (128, 160)
    assert suggest_fix(wanted, 96, fits) == f"Sizes that fit: 128, with {choice}."


def test_no_size_is_tried_for_what_fits_at_none():
    tried = []

    def fits(cfg, size):
        tried.append((cfg.pool, size))
        return True

    assert suggest_fix(cfg(), 96, fits, never_fits=True) == "Use model.pool average."
    assert tried == [("average", 96)]


def test_another_backbone_is_named_where_nothing_fits():
    assert suggest_fix(cfg(), 96, lambda *_: False) == "Use another backbone."
