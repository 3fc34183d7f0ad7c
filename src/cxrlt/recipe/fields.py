"""What a training recipe is: one frozen value that describes a run completely, apart from fold and seed."""

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

LARGEST = 1_000_000
"""Of counts: what is more is a slip, or would fill the memory."""
LARGEST_SIDE = 10_000
"""Of images, in pixels."""


Changes = Literal["weights", "logits", "scores", "nothing"]
"""What of a run another value of a field changes first: the weights it is trained to; the logits these
predict; what is made of logits when they are scored or submitted; or nothing. Fields that say nothing change
weights."""
LOGITS: dict[str, Any] = {"changes": "logits"}
SCORES: dict[str, Any] = {"changes": "scores"}
NOTHING: dict[str, Any] = {"changes": "nothing"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes and on as true, which pydantic takes for 1."""
        items = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(item, bool) for item in items):
            name = info.field_name or ""
            if "bool" not in str(cls.model_fields[name].annotation):
                raise ValueError(f"{name} is neither true nor false (got {value})")
        return value


def _heads() -> str:
    """What the command line says of the heads."""
    lines = []
    for name in head_names():
        options = " ".join(f"--model.head.{each} {value}" for each, value in HEADS[name].options.items())
        lines.append(f"{name}: {HEADS[name].about}{options and f' ({options})'}.")
    return " ".join(lines)


class FusionConfig(_Frozen):
    """A second stage that looks at the images of a study together."""

    max_images: int = Field(1, ge=1, le=LARGEST)
    """Most images of a study that are seen together; 1: every image alone, no fusion."""
    depth: int = Field(2, ge=1, le=1000)
    """Transformer layers over the tokens of a study."""
    n_heads: int = Field(8, ge=1)
    dim: int = Field(256, ge=8, le=LARGEST)
    """Width of the transformer; a multiple of n_heads."""
    drop_rate: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "FusionConfig":
        if self.dim % self.n_heads:
            raise ValueError(f"fusion.dim {self.dim} is not a multiple of fusion.n_heads {self.n_heads}")
        return self


class HeadConfig(_Frozen):
    """The classifier, by its registered name."""

    name: str = Field("linear", description=_heads())
    options: Annotated[dict[str, Option], tyro.conf.Fixed] = {}
    """Stand beside the name in files and flags: `head: {name: csra, weight: 0.1}`."""

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, values: Any) -> Any:
        if isinstance(values, str):
            raise ValueError(f"model.head: {values} is written model.head: {{name: {values}}} now")
        if not isinstance(values, dict) or not isinstance(values.get("options", {}), dict):
            return values
        named = {key: value for key, value in values.items() if key == "name"}
        options = {key: value for key, value in values.items() if key not in ("name", "options")}
        return {**named, "options": {**values.get("options", {}), **options}}

    @model_validator(mode="after")
    def _is_registered(self) -> "HeadConfig":
        require_head(self.name, self.options)
        return self

    @model_serializer
    def _options_beside_the_name(self) -> dict[str, Option]:
        return {"name": self.name, **self.options}

    def __hash__(self) -> int:
        return hash((self.name, *sorted(self.options.items())))

    @property
    def reads_map(self) -> bool:
        """Whether it looks at the feature map itself, without a pool."""
        return HEADS[self.name].reads_map


class ModelConfig(_Frozen):
    """The network: a timm backbone, a head, and between them, where asked for, a fusion of views."""

    backbone: str = "convnext_small.fb_in22k_ft_in1k_384"
    """Any timm model name."""
    pretrained: bool | Path = True
    """True: timm's weights. False: random. A path: weights from this .safetensors or .pth file."""
    init_from: str | None = None
    """Instead: a trained run, or CHALLENGE:RUN. Fold k starts from its fold k; other classes, a new head."""
    new_head: bool = False
    """With init_from: train the head from its beginning, even where that run's would fit."""
    frozen: bool = False
    """Train the head (and fusion) alone, on features computed once per image, without augmentation."""
    drop_rate: float = Field(0.0, ge=0, lt=1)
    """Dropout before the classifier, and within it where it has layers."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth."""
    pool: Literal["backbone", "average", "gem", "attention"] = "backbone"
    """From feature map to features, for heads that take a pool. backbone: as timm's model does it."""
    head: HeadConfig = HeadConfig()
    grid: int | None = Field(None, ge=1, le=LARGEST_SIDE)
    """Side that feature maps are averaged down to before pool, head or fusion; None: as they are."""
    fusion: FusionConfig = FusionConfig()
    normalise: bool = True
    """With the mean and standard deviation of the backbone's own weights; False: grey values / 255."""

    @field_validator("pretrained")
    @classmethod
    def _from_the_home_directory(cls, pretrained: bool | Path) -> bool | Path:
        return expand_home(pretrained) if isinstance(pretrained, Path) else pretrained

    @property
    def reads_map(self) -> bool:
        """Whether pool or head look at the feature map, and not at what timm's model pools."""
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
}
"""What the augmentation policies set; what one does not name is off, but for flip, which they leave alone.

The numbers are judgements of what differs between radiographs of one chest, not measurements:

parameter   light  medium  strong  stands for
crop_scale  .9-1   .8-1    .6-1    collimation: up to 5, 11 or 23 % of a side is lost; at 23 % now and then an
                                   apex or a costophrenic angle goes, and the finding in it
rotate      5      10      15      degrees; how a patient stands or lies
brightness  .1     .2      .3      share of white; exposure and display window
contrast    .1     .2      .3      relative; likewise
gamma       0      0       .3      exponents of .7 to 1.3: curves of detectors, which no line makes up for
blur        0      0       .1      one in ten: motion, old detectors; fine texture suffers
noise       0      0       .1      one in ten: low dose
erase       0      0       .25     one in four loses a rectangle, against looking at one spot alone
"""


class AugmentConfig(_Frozen):
    """Training augmentation."""

    policy: Literal["custom", "light", "medium", "strong"] = "custom"
    """Values for all fields below that are not given (medium: the defaults); flip is not theirs to set."""

    flip: bool = True
    """Horizontal flip half of the time; also switches flip TTA on."""
    crop_scale: tuple[float, float] = (0.8, 1.0)
    """Area of the random crop as a share of the image."""
    rotate: float = Field(10.0, ge=0, le=180)
    """Largest rotation in degrees."""
    brightness: float = Field(0.2, ge=0, le=1)
    contrast: float = Field(0.2, ge=0, le=1)
    gamma: float = Field(0.0, ge=0, lt=1)
    """Largest relative change of the exponent that grey values are raised to."""
    blur: float = Field(0.0, ge=0, le=1)
    """Probability of a slight Gaussian blur."""
    noise: float = Field(0.0, ge=0, le=1)
    """Probability of Gaussian noise."""
    erase: float = Field(0.0, ge=0, le=1)
    """Probability of erasing a rectangle."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_policy(cls, values: Any) -> Any:
        named = isinstance(values, dict) and isinstance(values.get("policy"), str)
        return POLICIES.get(values["policy"], {}) | values if named else values


class MixConfig(_Frozen):
    """Training images made of several."""

    kinds: tuple[Literal["mixup", "cutmix", "mosaic"], ...] = ()
    """Drawn evenly. mixup: weighted mean of two. cutmix: a rectangle of another. mosaic: four, shrunk."""
    probability: float = Field(0.5, ge=0, le=1)
    """Share of the training images that are mixed."""
    alpha: float = Field(0.4, gt=0)
    """Of the Beta(alpha, alpha) that weights of mixup and areas of cutmix are drawn from."""
    labels: Literal["auto", "soft", "union"] = "auto"
    """soft: labels weighted like the images. union: every finding of any of them. auto: union for mosaic."""


class SamplingConfig(_Frozen):
    """How often an image comes up; an epoch draws as many images as there are."""

    kind: Literal["uniform", "repeat_factor", "class_balanced"] = "uniform"
    """uniform: each once. repeat_factor: rare classes more often. class_balanced: all classes alike."""
    threshold: float = Field(0.01, gt=0, le=1)
    """Share of positives below which repeat_factor repeats a class."""
    cap: float = Field(10.0, ge=1)
    """Most that repeat_factor repeats an image."""


class DataConfig(_Frozen):
    """From the cache to batches."""

    size: int = Field(512, ge=32, le=LARGEST_SIDE)
    """Side of the square image the network sees, in pixels."""
    crop_pct: float = Field(1.0, ge=0.5, le=1)
    """timm's word: images are cached at size / crop_pct, and the network sees the centre of them."""
    n_workers: int | None = Field(None, ge=0, le=1000, json_schema_extra=NOTHING)
    """Loader processes; default: up to 8 with a GPU, none without."""
    augment: AugmentConfig = AugmentConfig()
    mix: MixConfig = MixConfig()
    sampling: SamplingConfig = SamplingConfig()

    @property
    def cache_size(self) -> int:
        """Side of the cached images in pixels."""
        return round(self.size / self.crop_pct)


class LossConfig(_Frozen):
    """The loss by its registered name, with its options."""

    name: str = "ral"
    options: dict[str, float | bool | str | None] = {}
    """Options of the loss, e.g. form: released."""
    bias_init: Literal["minimiser", "zero"] = "minimiser"
    """Where the classifier bias starts: where the loss is least if images say nothing, or 0."""


class OptimConfig(_Frozen):
    """The optimiser, its batches and the average of the weights."""

    optimizer: Literal["adamw", "adam"] = "adamw"
    """adamw: decoupled weight decay, none on biases and norms. adam: L2 penalty on all weights."""
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    backbone_lr_share: float = Field(1.0, gt=0, le=1)
    """Learning rate of the backbone as a share of that of head and fusion."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Learning rate factor from each block to the one before it."""
    batch_size: int = Field(32, ge=1, le=LARGEST)
    """Images per update, over all devices and accumulation steps."""
    max_batch_per_device: int = Field(32, ge=1, le=LARGEST, json_schema_extra=NOTHING)
    """Images per device and forward pass; larger batches are accumulated."""
    clip_grad: float | None = Field(1.0, gt=0)
    """Largest gradient norm."""
    ema_share: float = Field(0.05, ge=0, le=1)
    """Horizon of the weights' moving average as a share of the run's updates; 0: no average."""


class StageConfig(_Frozen):
    """A training of its own before the recipe's, whose weights the next one starts from."""

    epochs: int = Field(ge=1, le=LARGEST)
    size: int | None = Field(None, ge=32, le=LARGEST_SIDE)
    """Side of the image in pixels (default: the recipe's)."""
    lr: float | None = Field(None, gt=0)
    """Learning rate (default: the recipe's)."""
    frozen: bool = False
    """Warm the head up on a frozen backbone, whose feature maps are averaged down to at most 4 x 4."""


class ScheduleConfig(_Frozen):
    """Learning rate per update: linear warm-up, then down."""

    epochs: int = Field(20, ge=1, le=LARGEST)
    kind: Literal["cosine", "step"] = "cosine"
    warmup_share: float = Field(0.05, ge=0, lt=1)
    """Share of all updates spent warming up."""
    min_lr_share: float = Field(0.01, ge=0, le=1)
    """Last learning rate of the cosine as a share of the largest."""
    step_epochs: int = Field(30, ge=1)
    """Epochs between two steps down, for kind step."""
    step_factor: float = Field(0.1, gt=0, le=1)
    """What each step multiplies the learning rate by."""

    stages: tuple[StageConfig, ...] = ()
    """Trained one after the other before these epochs: head warm-up, rising resolution."""


class SoupConfig(_Frozen):
    """One model from the averaged weights of several epochs, if rows it was not trained on agree."""

    kind: Literal["none", "average", "greedy"] = "none"
    """average: all snapshots or the last. greedy: from the best, every one that does not lower the score."""
    snapshots: int = Field(5, ge=2, le=LARGEST)
    """How many of the last epochs are kept."""
    holdout_share: float = Field(0.1, gt=0, le=0.5)
    """Share of a fold's training patients left out to judge by; the out-of-fold rows never are."""


class TTAConfig(_Frozen):
    """Test-time augmentation: every image is predicted as it is and in these variants, and merged."""

    flip: bool = True
    """Also mirrored, each of them (only if training flipped)."""
    scales: tuple[float, ...] = ()
    """Zoom factors about the centre; below 1 with a black border."""
    crop: float | None = Field(None, gt=0, lt=1)
    """Also five crops, of this share of the side: the corners and the centre."""
    merge: Literal["logits", "probabilities", "geometric"] = "logits"
    """What is averaged: logits, probabilities, or logarithms of probabilities."""


class PredictConfig(_Frozen):
    """How the trained folds predict."""

    tta: TTAConfig = Field(TTAConfig(), json_schema_extra=LOGITS)
    study_mean: Literal["auto", "on", "off", "search"] = Field("auto", json_schema_extra=SCORES)
    """View-weighted mean over the images of a study; auto: if the out-of-fold score says so; search: with
    weights found on out-of-fold rows."""
    gate: float = Field(0.0, ge=0, json_schema_extra=SCORES)
    """Findings are multiplied by (1 - probability of no finding) to this power; 0: off."""
    weights: Literal["last", "best"] = "last"
    """The final averaged weights, or the best epoch's, which makes the out-of-fold score optimistic."""


class Recipe(_Frozen):
    """Everything that decides what a run computes, apart from challenge, fold and seed."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    soup: SoupConfig = SoupConfig()
    predict: PredictConfig = PredictConfig()
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto: bf16 on a GPU that has it, else float32."""
    compile: bool = False
    """torch.compile, where a compiler exists."""
    checkpoint_minutes: float = Field(10.0, gt=0, json_schema_extra=NOTHING)
    """Longest time between two checkpoints; one is also written after an epoch if the last is seconds old."""

    @property
    def uses_fusion(self) -> bool:
        """Whether the images of a study are seen together."""
        return self.model.fusion.max_images > 1

    @property
    def uses_mixing(self) -> bool:
        """Whether training images are made of several."""
        return bool(self.data.mix.kinds) and self.data.mix.probability > 0

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "Recipe":
        low, high = self.data.augment.crop_scale
        model = self.model
        if not 0 < low <= high <= 1:
            raise ValueError(f"data.augment.crop_scale ({low}, {high}) must be 0 < low <= high <= 1")
        if model.pool != "backbone" and model.head.reads_map:
            name = model.head.name
            raise ValueError(f"model.head {name} looks at the feature map itself: leave model.pool out")
        if self.uses_mixing and (model.frozen or self.uses_fusion):
            raise ValueError(
                "data.mix mixes single images: it goes with neither model.frozen nor model.fusion"
            )
        if model.frozen and any(stage.size for stage in self.schedule.stages):
            raise ValueError("model.frozen trains on features of one size: leave schedule.stages out")
        if self.soup.kind != "none" and self.predict.weights == "best":
            raise ValueError("soup and predict.weights best both choose epochs: leave one of them out")
        if min(self.predict.tta.scales, default=1) <= 0:
            raise ValueError("predict.tta.scales must be above 0")
        return self
