"""What a training recipe is: one frozen value that describes a run completely, apart from fold and seed."""

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cxrlt.artifacts import write_text
from cxrlt.errors import UserError

RECIPES_DIR = Path(__file__).parent / "recipes"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelConfig(_Frozen):
    """The network: a timm backbone and its head."""

    backbone: str = "convnext_small.fb_in22k_ft_in1k_384"
    """Any timm model name."""
    pretrained: bool | Path = True
    """True: timm's weights. False: random. A path: weights from this .safetensors or .pth file."""
    drop_rate: float = Field(0.0, ge=0, lt=1)
    """Dropout before the classifier."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth."""
    head: Literal["linear", "cosine"] = "linear"
    """cosine: logits are cosines of features and class weights, in [-1, 1] and without a bias, for LDAM."""
    normalise: bool = True
    """With the mean and standard deviation of the backbone's own weights; False: grey values / 255."""


class AugmentConfig(_Frozen):
    """Training augmentation."""

    flip: bool = True
    """Horizontal flip half of the time; also switches flip TTA on."""
    crop_scale: tuple[float, float] = (0.8, 1.0)
    """Area of the random crop as a share of the image."""
    rotate: float = Field(10.0, ge=0, le=180)
    """Largest rotation in degrees."""
    brightness: float = Field(0.2, ge=0, le=1)
    contrast: float = Field(0.2, ge=0, le=1)
    erase: float = Field(0.0, ge=0, le=1)
    """Probability of erasing a rectangle."""


class DataConfig(_Frozen):
    """From the cache to batches."""

    size: int = Field(512, ge=32)
    """Side of the square image the network sees, in pixels."""
    crop_pct: float = Field(1.0, ge=0.5, le=1)
    """timm's word: images are cached at size / crop_pct, and the network sees the centre of them."""
    n_workers: int | None = Field(None, ge=0)
    """Loader processes; default: up to 8 with a GPU, none without."""
    augment: AugmentConfig = AugmentConfig()

    @property
    def cache_size(self) -> int:
        """Side of the cached images in pixels."""
        return round(self.size / self.crop_pct)


class LossConfig(_Frozen):
    """The loss by its registered name, with its options."""

    name: str = "ral"
    options: dict[str, float | bool | str | None] = {}
    """Options of the loss, e.g. form: released."""
    bias_start: Literal["minimiser", "zero"] = "minimiser"
    """Where the classifier bias starts: where the loss is least if images say nothing, or 0."""


class OptimConfig(_Frozen):
    """The optimiser, its batches and the average of the weights."""

    optimizer: Literal["adamw", "adam"] = "adamw"
    """adamw: decoupled weight decay, none on biases and norms. adam: L2 penalty on all weights."""
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Learning rate factor from each block to the one before it."""
    batch_size: int = Field(32, ge=1)
    """Images per update, over all devices and accumulation steps."""
    max_batch_per_device: int = Field(32, ge=1)
    """Images per device and forward pass; larger batches are accumulated."""
    clip_grad: float | None = Field(1.0, gt=0)
    """Largest gradient norm."""
    ema_share: float = Field(0.05, ge=0, le=1)
    """Horizon of the weights' moving average as a share of the run's updates; 0: no average."""


class ScheduleConfig(_Frozen):
    """Learning rate per update: linear warm-up, then down."""

    epochs: int = Field(20, ge=1)
    kind: Literal["cosine", "step"] = "cosine"
    warmup_share: float = Field(0.05, ge=0, lt=1)
    """Share of all updates spent warming up."""
    min_lr_share: float = Field(0.01, ge=0, le=1)
    """Last learning rate of the cosine as a share of the largest."""
    step_epochs: int = Field(30, ge=1)
    """Epochs between two steps down, for kind step."""
    step_factor: float = Field(0.1, gt=0, le=1)
    """What each step multiplies the learning rate by."""


class PredictConfig(_Frozen):
    """How the trained folds predict."""

    tta: bool = True
    """Average the logits of the image and its mirror image (only if training flipped)."""
    study_mean: Literal["auto", "on", "off"] = "auto"
    """View-weighted mean over the images of a study; auto: if the out-of-fold score says so."""
    weights: Literal["last", "best"] = "last"
    """The final averaged weights, or the best epoch's, which makes the out-of-fold score optimistic."""


class Recipe(_Frozen):
    """Everything that decides what a run computes, apart from challenge, fold and seed."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    predict: PredictConfig = PredictConfig()
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto: bf16 on a GPU that has it, else float32."""
    compile: bool = False
    """torch.compile, where a compiler exists."""
    checkpoint_minutes: float = Field(10.0, gt=0)
    """Longest time between two checkpoints; one is also written after an epoch if the last is seconds old."""

    @model_validator(mode="after")
    def _crop_is_a_range(self) -> "Recipe":
        low, high = self.data.augment.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"data.augment.crop_scale ({low}, {high}) must be 0 < low <= high <= 1")
        return self


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))


def load_recipe(recipe: str | None, config: Path | None = None) -> Recipe:
    """The recipe called `recipe`, or in the YAML file of that name, with the fields of `config` on top.

    A YAML file may name a `base` recipe. Raises UserError for an unknown recipe, key or value.
    """
    values = _values(recipe) if recipe else {}
    if config is not None:
        over = _read_yaml(config)
        base = over.pop("base", None)
        values = _merge(values if recipe or not base else _values(base), over)
    return _validated(values, str(config or recipe))


def run_name(recipe: str | None) -> str:
    """What a run of this recipe is called unless it is given a name."""
    if recipe is None:
        raise UserError("Without a recipe's name the run needs one: give it --name.")
    return Path(recipe).stem if _is_file(recipe) else recipe


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML that `load_recipe(None, path)` reads back."""
    write_text(path, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def differing_fields(old: Recipe, new: Recipe) -> list[str]:
    """'optim.lr: 0.001 -> 0.0001' for every field in which the two differ."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = [*before, *(key for key in after if key not in before)]
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in keys if before.get(k) != after.get(k)]


def _values(recipe: str) -> dict[str, Any]:
    """Fields of a recipe and of its bases, unresolved."""
    if not _is_file(recipe) and recipe not in recipe_names():
        close = difflib.get_close_matches(recipe, recipe_names(), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"Recipe {recipe!r} is not known{hint}. Known recipes: {', '.join(recipe_names())}.")
    values = _read_yaml(Path(recipe) if _is_file(recipe) else RECIPES_DIR / f"{recipe}.yaml")
    base = values.pop("base", None)
    return _merge(_values(base), values) if base else values


def _is_file(recipe: str) -> bool:
    return recipe.endswith((".yaml", ".yml"))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}). Give --config the path of a YAML file."
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path} must hold fields such as `optim: {{lr: 0.0001}}`, not {type(values).__name__}."
        )
    return values


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section; a loss with another name brings its own options."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    if "name" in over and over["name"] != base.get("name") and "options" in base:
        merged["options"] = over.get("options", {})
    return merged


def _validated(values: dict[str, Any], source: str) -> Recipe:
    try:
        return Recipe.model_validate(_numbers(values))
    except ValidationError as error:
        raise UserError(f"{source}: " + "; ".join(_sentence(e) for e in error.errors())) from error


def _numbers(value: Any) -> Any:
    """YAML reads 1e-4 as text; where text is a number, it is meant as one."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _sentence(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{where or 'recipe'}: {error['msg']} (got {error['input']!r})"
    known = list(_flat(Recipe().model_dump(mode="json")))
    close = difflib.get_close_matches(where, [*known, *Recipe.model_fields], n=1)
    return f"there is no field {where}" + (f" (did you mean {close[0]}?)" if close else "")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        flat.update(_flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return flat
