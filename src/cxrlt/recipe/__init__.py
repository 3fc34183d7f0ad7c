"""A recipe describes a run completely, apart from challenge, fold and seed."""

from cxrlt.recipe.fields import (
    AugmentConfig,
    DataConfig,
    FusionConfig,
    LossConfig,
    MixConfig,
    ModelConfig,
    OptimConfig,
    PredictConfig,
    Recipe,
    SamplingConfig,
    ScheduleConfig,
    SoupConfig,
    StageConfig,
    TTAConfig,
)
from cxrlt.recipe.load import (
    RECIPES_DIR,
    differing_fields,
    load_recipe,
    recipe_names,
    run_name,
    save_recipe,
)

__all__ = [
    "RECIPES_DIR",
    "AugmentConfig",
    "DataConfig",
    "FusionConfig",
    "LossConfig",
    "MixConfig",
    "ModelConfig",
    "OptimConfig",
    "PredictConfig",
    "Recipe",
    "SamplingConfig",
    "ScheduleConfig",
    "SoupConfig",
    "StageConfig",
    "TTAConfig",
    "differing_fields",
    "load_recipe",
    "recipe_names",
    "run_name",
    "save_recipe",
]
