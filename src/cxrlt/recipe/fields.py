"""The fields of a recipe, with their types, defaults, limits and help texts."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from cxrlt.artifacts import expand_home
from cxrlt.heads import HEADS, Option, head_names, require_head
from cxrlt.recipe.known_weights import known_weights

MAX_COUNT = 1_000_000
"""Upper limit of counts. A larger number is a typing error, or would not fit in memory."""
MAX_SIDE = 10_000
"""Upper limit of an image side in pixels."""

Effect = Literal["weights", "logits", "scores", "nothing"]
"""The first result of a run that depends on a field: the trained weights, the predicted logits, the scores
and submissions computed from logits, or nothing. A field without this entry affects the weights."""
AFFECTS_LOGITS: dict[str, Any] = {"affects": "logits"}
AFFECTS_SCORES: dict[str, Any] = {"affects": "scores"}
AFFECTS_NOTHING: dict[str, Any] = {"affects": "nothing"}


class _RecipeSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_bool_for_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` and `on` as true, and pydantic would accept true as 1."""
        items = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(item, bool) for item in items):
            name = info.field_name or ""
            if "bool" not in str(cls.model_fields[name].annotation):
                raise ValueError(f"{name} cannot be true or false (got {value})")
        return value


def _heads_help() -> str:
    """Return the help text of model.head.name: every head with its options."""
    lines = []
    for name in head_names():
        options = " ".join(f"--model.head.{each} {value}" for each, value in HEADS[name].options.items())
        lines.append(f"{name}: {HEADS[name].about}{options and f' ({options})'}.")
    return " ".join(lines)


class FusionConfig(_RecipeSection):
    """Multi-view fusion: a transformer over the features of all images of a study."""

    max_images: int = Field(1, ge=1, le=MAX_COUNT)
    """Largest number of images of a study that are fused. 1: no fusion, images are classified one by one."""
    depth: int = Field(2, ge=1, le=1000)
    """Number of transformer layers over the tokens of a study."""
    n_heads: int = Field(8, ge=1)
    """Number of attention heads per transformer layer."""
    dim: int = Field(256, ge=8, le=MAX_COUNT)
    """Width of the transformer: a multiple of n_heads."""
    drop_rate: float = Field(0.1, ge=0, lt=1)
    """Dropout probability inside the transformer."""

    @model_validator(mode="after")
    def _check_dim(self) -> "FusionConfig":
        if self.dim % self.n_heads:
            raise ValueError(f"fusion.dim {self.dim} is not a multiple of fusion.n_heads {self.n_heads}")
        return self


class HeadConfig(_RecipeSection):
    """The classifier after the backbone: its name and its options."""

    name: str = Field("linear", description=_heads_help())
    options: Annotated[dict[str, Option], tyro.conf.Fixed] = {}
    """Options of the head, written next to its name: `head: {name: csra, weight: 0.1}`."""

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, values: Any) -> Any:
        if isinstance(values, str):
            raise ValueError(f"model.head: {values} must now be written as model.head: {{name: {values}}}")
        if not isinstance(values, dict) or not isinstance(values.get("options", {}), dict):
            return values
        named = {key: value for key, value in values.items() if key == "name"}
        options = {key: value for key, value in values.items() if key not in ("name", "options")}
        return {**named, "options": {**values.get("options", {}), **options}}

    @model_validator(mode="after")
    def _check_head(self) -> "HeadConfig":
        require_head(self.name, self.options)
        return self

    @model_serializer
    def _serialize_flat(self) -> dict[str, Option]:
        return {"name": self.name, **self.options}

    def __hash__(self) -> int:
        return hash((self.name, *sorted(self.options.items())))

    @property
    def reads_map(self) -> bool:
        """Whether the head reads the feature map itself, without a pool."""
        return HEADS[self.name].reads_map


class ModelConfig(_RecipeSection):
    """The network: a timm backbone, optional multi-view fusion, and a head."""

    backbone: str = "convnext_small.fb_in22k_ft_in1k_384"
    """Name of a timm model."""
    pretrained: bool | Path = True
    """True: those of timm. False: random. A .safetensors or .pth file, or hf-hub:ORG/REPO/FILE@REVISION."""
    weights: str | None = None
    """Name of a row of `cxrlt weights`: sets backbone, options, mean, std and pretrained_on for its file."""
    options: dict[str, Option] = {}
    """Further arguments of timm.create_model, for example `{patch_size: 16}`."""
    mean: float | tuple[float, float, float] | None = None
    """Mean that the pretrained weights expect, of pixels / 255: a number or one per channel. None: timm's."""
    std: float | tuple[float, float, float] | None = None
    """Standard deviation that the pretrained weights expect. None: that of timm."""
    pretrained_on: tuple[str, ...] = ()
    """Data sets of the pretraining, such as mimic or nih14-test: warns if the challenge has their images."""
    pretrained_images: Path | None = None
    """CSV file with the pretraining images, one row each: counts those of the challenge that it contains."""
    init_from: str | None = None
    """Start fold k from fold k of a trained run: RUN or CHALLENGE:RUN. Other classes get a new head."""
    new_head: bool = False
    """With init_from: start with a new head, even if the head of that run has the same classes."""
    frozen: bool = False
    """Train only the head (and fusion), on features that are computed once, without augmentation."""
    drop_rate: float = Field(0.0, ge=0, lt=1)
    """Dropout probability before the classifier, and inside heads that have layers."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth rate of the backbone (drop_path_rate in timm)."""
    pool: Literal["backbone", "average", "gem", "attention"] = "backbone"
    """Pooling of the feature map, for heads that need it. backbone: the pooling of the timm model."""
    head: HeadConfig = HeadConfig()
    """The classifier."""
    grid: int | None = Field(None, ge=1, le=MAX_SIDE)
    """Average feature maps down to grid x grid before pool, head or fusion. None: keep their size."""
    fusion: FusionConfig = FusionConfig()
    """Multi-view fusion."""
    normalise: bool = True
    """True: normalise with mean and standard deviation of the pretrained weights. False: grey level / 255."""

    @model_validator(mode="before")
    @classmethod
    def _apply_known_weights(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("weights"), str):
            return values
        return known_weights(values["weights"]).recipe_fields() | values

    @field_validator("pretrained", "pretrained_images")
    @classmethod
    def _expand_home(cls, path: bool | Path | None) -> bool | Path | None:
        return expand_home(path) if isinstance(path, Path) else path

    @field_validator("std")
    @classmethod
    def _check_std(
        cls, std: float | tuple[float, float, float] | None
    ) -> float | tuple[float, float, float] | None:
        if std is not None and not min(std if isinstance(std, tuple) else (std,)) > 0:
            raise ValueError(f"model.std {std} must be above 0")
        return std

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _check_file_of_known_weights(self) -> "ModelConfig":
        if self.weights and self.pretrained is True and not self.init_from:
            place = known_weights(self.weights).address
            raise ValueError(f"model.weights {self.weights} needs model.pretrained FILE, from {place}")
        return self

    @property
    def reads_map(self) -> bool:
        """Whether pool or head read the feature map, not the pooled features of the timm model."""
        return self.pool != "backbone" or self.head.reads_map


POLICIES: dict[str, dict[str, object]] = {
    "light": {"crop_scale": (0.9, 1.0), "rotate": 5.0, "brightness": 0.1, "contrast": 0.1},
    "medium": {"crop_scale": (0.8, 1.0), "rotate": 10.0, "brightness": 0.2, "contrast": 0.2},
    "strong": {
        "crop_scale": (0.6, 1.0),
        "rotate": 15.0,
        "brightness": 0.3,
        "contrast": 0.3,
        "gamma": 0.3,
        "blur": 0.1,
        "noise": 0.1,
        "erase": 0.25,
    },
    "dermoscopy": {
        "vertical_flip": True,
        "crop_scale": (0.7, 1.0),
        "rotate": 180.0,
        "brightness": 0.1,
        "contrast": 0.2,
        "blur": 0.1,
    },
    "fundus": {
        "vertical_flip": True,
        "crop_scale": (0.8, 1.0),
        "rotate": 180.0,
        "brightness": 0.2,
        "contrast": 0.2,
        "gamma": 0.2,
        "blur": 0.1,
    },
}
"""Field values of each augmentation policy. Fields that a policy does not list are off, except flip.

The values are our estimates of how much two radiographs of one chest differ, not measurements:

parameter   light  medium  strong  imitates
crop_scale  .9-1   .8-1    .6-1    collimation: at most 5, 11 or 23 % of a side is lost; 23 % can remove
                                   an apex or a costophrenic angle, and the finding in it
rotate      5      10      15      position of the patient, in degrees
brightness  .1     .2      .3      exposure and display window, as a share of white
contrast    .1     .2      .3      exposure and display window, relative
gamma       0      0       .3      non-linear detector curves, exponents .7 to 1.3
blur        0      0       .1      motion and old detectors, one image in ten; removes fine texture
noise       0      0       .1      low dose, one image in ten
erase       0      0       .25     a missing rectangle in one image of four, against relying on one region

Two policies are for other images. They are estimates too:

parameter      dermoscopy  fundus  imitates
vertical_flip  yes         yes     skin has no upper side; a retina upside down has the same lesions
rotate         180         180     any angle of the lens; a fundus is a disc with black corners anyway
crop_scale     .7-1        .8-1    distance of the lens, at most 16 or 11 % of a side is lost
brightness     .1          .2      lamp and exposure; more in fundus images, which small pupils darken
contrast       .2          .2      camera; all channels get the same change, so hues of lesions stay
gamma          0           .2      camera
blur           .1          .1      focus, one image in ten
"""


class AugmentConfig(_RecipeSection):
    """Random augmentation of training images."""

    policy: Literal["custom", "light", "medium", "strong", "dermoscopy", "fundus"] = "custom"
    """Sets every field below that you do not set yourself, except flip. medium: the defaults."""

    flip: bool = True
    """Flip horizontally with probability 0.5. Flip TTA also needs this."""
    vertical_flip: bool = False
    """Flip vertically with probability 0.5; not for radiographs. Flip TTA does not use it."""
    crop_scale: tuple[float, float] = (0.8, 1.0)
    """Smallest and largest area of the random crop, as shares of the image area."""
    rotate: float = Field(10.0, ge=0, le=180)
    """Largest rotation in degrees."""
    brightness: float = Field(0.2, ge=0, le=1)
    """Largest change of brightness, as a share of white."""
    contrast: float = Field(0.2, ge=0, le=1)
    """Largest relative change of contrast."""
    gamma: float = Field(0.0, ge=0, lt=1)
    """Largest change of the exponent in gamma correction: from 1 - gamma to 1 + gamma."""
    blur: float = Field(0.0, ge=0, le=1)
    """Probability of a slight Gaussian blur."""
    noise: float = Field(0.0, ge=0, le=1)
    """Probability of Gaussian noise."""
    erase: float = Field(0.0, ge=0, le=1)
    """Probability of erasing a rectangle."""

    @model_validator(mode="before")
    @classmethod
    def _apply_policy(cls, values: Any) -> Any:
        named = isinstance(values, dict) and isinstance(values.get("policy"), str)
        return POLICIES.get(values["policy"], {}) | values if named else values


class MixConfig(_RecipeSection):
    """Mixing of training images: mixup, CutMix, mosaic."""

    kinds: tuple[Literal["mixup", "cutmix", "mosaic"], ...] = ()
    """Kinds to draw from. mixup: mean of two images. cutmix: part of another image. mosaic: four images."""
    probability: float = Field(0.5, ge=0, le=1)
    """Share of the training images that are mixed."""
    alpha: float = Field(0.4, gt=0)
    """Parameter of Beta(alpha, alpha), from which mixup weights and CutMix areas are drawn."""
    labels: Literal["auto", "soft", "union"] = "auto"
    """soft: weighted like the images. union: positive if any image is. auto: union for mosaic, else soft."""


class SamplingConfig(_RecipeSection):
    """Sampling of training images. An epoch always draws as many images as the fold has."""

    kind: Literal["uniform", "repeat_factor", "class_balanced"] = "uniform"
    """uniform: each image once. repeat_factor: rare classes more often. class_balanced: all equally often."""
    threshold: float = Field(0.01, gt=0, le=1)
    """repeat_factor oversamples classes whose share of positives is below this."""
    cap: float = Field(10.0, ge=1)
    """Largest repeat factor of an image."""


class DataConfig(_RecipeSection):
    """Image size, data loading, augmentation, mixing and sampling."""

    size: int = Field(512, ge=32, le=MAX_SIDE)
    """Side of the square input image of the network, in pixels."""
    crop_pct: float = Field(1.0, ge=0.5, le=1)
    """As in timm: images are cached at size / crop_pct pixels, and the network gets their centre."""
    n_workers: int | None = Field(None, ge=0, le=1000, json_schema_extra=AFFECTS_NOTHING)
    """Number of data loader workers. None: at most 8 with a GPU, 0 without."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of training images."""
    mix: MixConfig = MixConfig()
    """Mixing of training images."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling of training images."""
    holdout_share: float = Field(0.1, gt=0, le=0.5)
    """Share of a fold's training patients that are held out for a soup or best_holdout; never OOF rows."""
    long_tail: float | None = Field(None, gt=1, le=MAX_COUNT)
    """Train on exponential class counts: this many times more images of the first class than of the last."""

    @property
    def cache_size(self) -> int:
        """Side of the cached images in pixels."""
        return round(self.size / self.crop_pct)


class LossConfig(_RecipeSection):
    """The loss: its name and its options."""

    name: str = "ral"
    """Name of the loss; docs/losses.md lists them."""
    options: dict[str, float | bool | str | None] = {}
    """Options of the loss, for example `{gamma_neg: 4, clip: 0.05}`."""
    bias_init: Literal["minimiser", "zero"] = "minimiser"
    """Initial bias of the classifier. minimiser: the constant logits with the lowest training loss."""


class OptimConfig(_RecipeSection):
    """Optimizer, batch size, gradient clipping and moving average of the weights (EMA)."""

    optimizer: Literal["adamw", "adam"] = "adamw"
    """adamw: decoupled weight decay, none on biases and norm layers. adam: L2 penalty on all weights."""
    lr: float = Field(1e-4, gt=0)
    """Largest learning rate, reached after the warm-up."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay (adamw) or factor of the L2 penalty (adam)."""
    backbone_lr_share: float = Field(1.0, gt=0, le=1)
    """Learning rate of the backbone as a share of lr; head and fusion use lr."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Layer-wise decay: each backbone block has this times the learning rate of the next. None: off."""
    batch_size: int = Field(32, ge=1, le=MAX_COUNT)
    """Images per update, summed over all devices and gradient accumulation steps."""
    max_batch_per_device: int = Field(32, ge=1, le=MAX_COUNT, json_schema_extra=AFFECTS_NOTHING)
    """Largest number of images per device and forward pass. A larger batch uses gradient accumulation."""
    clip_grad: float | None = Field(1.0, gt=0)
    """Largest gradient norm; larger gradients are scaled down. None: no clipping."""
    ema_share: float = Field(0.05, ge=0, le=1)
    """Horizon of the EMA of the weights, as a share of all updates. 0: no EMA."""


class StageConfig(_RecipeSection):
    """A training stage before the main one. The next stage starts from its weights."""

    epochs: int = Field(ge=1, le=MAX_COUNT)
    """Number of epochs of this stage."""
    size: int | None = Field(None, ge=32, le=MAX_SIDE)
    """Side of the input image in pixels. None: data.size."""
    lr: float | None = Field(None, gt=0)
    """Largest learning rate. None: optim.lr."""
    frozen: bool = False
    """Train only the head, on a frozen backbone whose feature maps are averaged down to at most 4 x 4."""


class ScheduleConfig(_RecipeSection):
    """Number of epochs and learning rate schedule: linear warm-up, then cosine or step decay."""

    epochs: int = Field(20, ge=1, le=MAX_COUNT)
    """Number of epochs, without those of stages."""
    kind: Literal["cosine", "step"] = "cosine"
    """Decay of the learning rate after the warm-up."""
    warmup_share: float = Field(0.05, ge=0, lt=1)
    """Length of the linear warm-up, as a share of all updates."""
    min_lr_share: float = Field(0.01, ge=0, le=1)
    """Last learning rate of the cosine schedule, as a share of the largest."""
    step_epochs: int = Field(30, ge=1)
    """For kind step: number of epochs between two steps."""
    step_factor: float = Field(0.1, gt=0, le=1)
    """For kind step: factor on the learning rate at each step."""
    stages: tuple[StageConfig, ...] = ()
    """Stages trained before these epochs, in this order: for example a head warm-up or lower resolutions."""


class SoupConfig(_RecipeSection):
    """Model soup: average the weights of several epochs if that improves the score on held-out patients."""

    kind: Literal["none", "average", "greedy"] = "none"
    """average: all snapshots, or the last if better. greedy: add snapshots that do not lower the score."""
    snapshots: int = Field(5, ge=2, le=MAX_COUNT)
    """Number of last epochs whose weights are candidates."""


class TTAConfig(_RecipeSection):
    """Test-time augmentation (TTA): predict each image and its variants, then merge the predictions."""

    flip: bool = True
    """Also predict each variant flipped horizontally; only with data.augment.flip, not with model.frozen."""
    scales: tuple[float, ...] = ()
    """Also predict at these zoom factors about the centre. Below 1 adds a black border."""
    crop: float | None = Field(None, gt=0, lt=1)
    """Also predict five crops, corners and centre, of this share of the side. None: off."""
    merge: Literal["logits", "probabilities", "geometric"] = "logits"
    """What to average: logits, probabilities, or logarithms of probabilities (geometric)."""


class PredictConfig(_RecipeSection):
    """How trained folds predict, and how predictions are combined within a study."""

    tta: TTAConfig = Field(TTAConfig(), json_schema_extra=AFFECTS_LOGITS)
    """Test-time augmentation."""
    study_mean: Literal["auto", "on", "off", "search"] = Field("auto", json_schema_extra=AFFECTS_SCORES)
    """Mean over the images of a study. auto: if it improves the OOF score. search: optimise view weights."""
    gate: float = Field(0.0, ge=0, json_schema_extra=AFFECTS_SCORES)
    """Multiply the probability of each finding by (1 - probability of no finding) to this power. 0: off."""
    weights: Literal["last", "best", "best_holdout"] = "last"
    """last: final (EMA). best: epoch with the best OOF score, so optimistic. best_holdout: by a holdout."""


class Recipe(_RecipeSection):
    """Every setting of a run except challenge, fold and seed."""

    model: ModelConfig = ModelConfig()
    """Backbone, fusion and head."""
    data: DataConfig = DataConfig()
    """Image size, augmentation and sampling."""
    loss: LossConfig = LossConfig()
    """The loss."""
    optim: OptimConfig = OptimConfig()
    """Optimizer, batch size and EMA."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Epochs and learning rate schedule."""
    soup: SoupConfig = SoupConfig()
    """Model soup."""
    predict: PredictConfig = PredictConfig()
    """TTA and mean over a study."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto: bf16 on GPUs that support it, else float32."""
    compile: bool = False
    """Use torch.compile if a compiler is installed."""
    checkpoint_minutes: float = Field(10.0, gt=0, json_schema_extra=AFFECTS_NOTHING)
    """Minutes between two checkpoints, at most. An epoch longer than some seconds also ends with one."""

    @property
    def uses_holdout(self) -> bool:
        """Whether a share of a fold's training patients is held out of training to choose its weights."""
        return self.soup.kind != "none" or self.predict.weights == "best_holdout"

    @property
    def uses_fusion(self) -> bool:
        """Whether the images of a study are fused."""
        return self.model.fusion.max_images > 1

    @property
    def uses_mixing(self) -> bool:
        """Whether training images are mixed."""
        return bool(self.data.mix.kinds) and self.data.mix.probability > 0

    @model_validator(mode="after")
    def _check_combinations(self) -> "Recipe":
        low, high = self.data.augment.crop_scale
        model = self.model
        if not 0 < low <= high <= 1:
            raise ValueError(f"data.augment.crop_scale ({low}, {high}) must be 0 < low <= high <= 1")
        if not model.normalise and (model.mean, model.std) != (None, None):
            raise ValueError("model.normalise False ignores model.mean and model.std: remove one of both")
        if model.pool != "backbone" and model.head.reads_map:
            name = model.head.name
            raise ValueError(f"model.head {name} reads the feature map itself: remove model.pool")
        if self.uses_mixing and (model.frozen or self.uses_fusion):
            raise ValueError(
                "data.mix mixes single images: it cannot be combined with model.frozen or model.fusion"
            )
        if model.frozen and any(stage.size for stage in self.schedule.stages):
            raise ValueError("model.frozen trains on features of one image size: remove schedule.stages")
        if self.soup.kind != "none" and self.predict.weights != "last":
            raise ValueError(
                f"soup and predict.weights {self.predict.weights} both choose epochs: remove one of them"
            )
        if min(self.predict.tta.scales, default=1) <= 0:
            raise ValueError("predict.tta.scales must be above 0")
        return self
