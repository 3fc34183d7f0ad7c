"""A timm backbone that reads radiographs of one channel, or of three, and what stands on it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from cxrlt.errors import UserError, shortened
from cxrlt.heads import create_head
from cxrlt.heads.linear import LinearHead
from cxrlt.heads.pools import create_pool
from cxrlt.models.advice import Fits, what_fits
from cxrlt.models.chatter import without_chatter
from cxrlt.models.dry_run import first_pass
from cxrlt.models.fusion import StudyEncoder
from cxrlt.models.pretrained import local_weights, no_weights
from cxrlt.models.tokens import FeatureLayout, layout_of
from cxrlt.recipe import ModelConfig
from cxrlt.spelling import did_you_mean

Inputs = dict[str, Tensor]
"""Of single images: images uint8 (b, channels, h, w) or features (b, t, d). Of studies: one of the two with
v images each, (b, v, ...), and views int64 (b, v), present bool (b, v)."""


LONGEST_REASON = 160
"""Characters of a message of timm or torch that an error quotes."""


class XRayModel(nn.Module):
    """uint8 radiographs, or their features, or those of whole studies, to logits (b, c).

    Images are normalised here, on the device, with the mean and standard deviation that the backbone's own
    weights were trained with: channel by channel for three, their means for one. Without `normalise` the
    backbone sees grey values / 255. In eval mode a row's logits depend on that row's present images only.
    """

    mean: Tensor
    std: Tensor
    logit_scale: Tensor

    def __init__(
        self,
        backbone: nn.Module | None,
        layout: FeatureLayout,
        fusion: StudyEncoder | None,
        head: nn.Module,
        channels: int = 1,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.layout, self.fusion, self.head = backbone, layout, fusion, head
        known = normalise and backbone is not None
        cfg = backbone.pretrained_cfg if known else {"mean": (0.0,), "std": (1.0,)}
        for name in ("mean", "std"):
            values = torch.tensor(cfg[name]).reshape(-1, 1, 1)
            if channels == 1:
                values = values.mean(dim=0, keepdim=True)
            self.register_buffer(name, values, persistent=False)
        self.register_buffer("logit_scale", torch.ones(()))  # travels with the weights

    def forward(self, inputs: Inputs) -> Tensor:
        features = inputs["features"] if "features" in inputs else self._features_of(inputs)
        if self.fusion is None:
            return self.head(features)
        return self.head(*self.fusion(features, inputs["views"], inputs["present"]))

    def predict(self, inputs: Inputs) -> Tensor:
        """Logits whose sigmoid or softmax are the probabilities, whatever scale the loss trained them at."""
        return self.logit_scale * self(inputs).float()

    def features(self, images: Tensor) -> Tensor:
        """uint8 images (n, channels, h, w) to features (n, t, d), t = 1 where timm pools them."""
        return self.layout.features(self.backbone((images.float() / 255 - self.mean) / self.std))

    @property
    def classifier(self) -> nn.Module:
        return self.head

    def without_backbone(self) -> "XRayModel":
        """A model of features alone that shares head, fusion and logit scale with this one."""
        light = XRayModel(None, self.layout, self.fusion, self.head)
        light.logit_scale = self.logit_scale
        return light.train(self.training)

    def _features_of(self, inputs: Inputs) -> Tensor:
        """Only the images that are there pass the backbone; the features of absent ones are 0."""
        if self.fusion is None:
            return self.features(inputs["images"])
        present = inputs["present"]
        found = self.features(inputs["images"][present])
        features = found.new_zeros(*present.shape, *found.shape[1:])
        features[present] = found
        return features


_LAYOUTS: dict[tuple[ModelConfig, int, int], FeatureLayout] = {}
"""Those found in this process: every fold makes the same model, to train and to predict."""


def create_model(cfg: ModelConfig, n_classes: int, size: int, channels: int = 1) -> XRayModel:
    """The model of a recipe for `n_classes` classes and `size` x `size` images of 1 or 3 `channels`.

    Raises UserError for an unknown backbone, a size, pool, head or fusion it cannot take, a size whose last
    pixels it would never see, and weights that cannot be had or do not fit.
    """
    architecture = cfg.backbone.split(".")[0]
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models())
        raise UserError(f"model.backbone {cfg.backbone!r} is not a timm model{hint}.")
    if cfg.grid is not None and not _reads_map(cfg):
        raise UserError("model.grid needs a feature map: choose a model.pool other than backbone.")
    try:
        model = _create(cfg, n_classes, size, channels)
    except _DoesNotFitError as error:
        at_any_size = isinstance(error, _AtAnySizeError)
        raise UserError(f"{error}. {what_fits(cfg, size, _trials(channels), at_any_size)}") from error
    return model.to(memory_format=torch.channels_last)  # faster on GPUs and CPUs alike


class _DoesNotFitError(Exception):
    """Backbone, size, pool and head do not go together: how the sentence that says so begins."""


class _AtAnySizeError(_DoesNotFitError):
    """The same where it is not the size that does not fit."""


def _create(cfg: ModelConfig, n_classes: int, size: int, channels: int) -> XRayModel:
    backbone = _create_backbone(cfg, n_classes, size, channels)
    classifier = _take_classifier(backbone, cfg)
    known = (cfg.model_copy(update={"pretrained": False}), size, channels)
    if known not in _LAYOUTS:
        _LAYOUTS[known] = _layout(backbone, cfg, size, channels)
    layout = _LAYOUTS[known]
    uses_fusion = cfg.fusion.max_images > 1
    fusion = StudyEncoder(layout.dim, cfg.fusion) if uses_fusion else None
    head = _create_head(cfg, cfg.fusion.dim if uses_fusion else layout.dim, n_classes)
    if classifier is not None and isinstance(head, LinearHead):
        with torch.no_grad():
            head.weight.copy_(classifier.weight.flatten(1))  # a convolution of one pixel in some
            if classifier.bias is not None:
                head.bias.copy_(classifier.bias)
    return XRayModel(backbone, layout, fusion, head, channels, cfg.normalise)


def require_head_options(cfg: ModelConfig) -> None:
    """Raises UserError for options that the head of a recipe cannot take."""
    with torch.device("meta"):
        _create_head(cfg, 8, 1)


def _create_head(cfg: ModelConfig, dim: int, n_classes: int) -> nn.Module:
    pool = partial(create_pool, cfg.pool, dim)
    try:
        return create_head(
            cfg.head.name, cfg.head.options, dim, n_classes, pool=pool, drop_rate=cfg.drop_rate
        )
    except ValueError as error:
        raise UserError(f"model.head {cfg.head.name}: {error}") from error


def _trials(channels: int) -> Fits:
    """Tries models without values, for which nothing is computed."""

    @cache
    def bare(cfg: ModelConfig, size: int) -> nn.Module:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first model has warned already
            backbone = _create_backbone(cfg, 1, size, channels)
        _take_classifier(backbone, cfg)
        return backbone

    def fits(cfg: ModelConfig, size: int) -> bool:
        cfg = cfg.model_copy(update={"pretrained": False})
        try:
            _layout(bare(cfg, size if _is_of_one_size(cfg) else 0), cfg, size, channels)
        except _DoesNotFitError:
            return False
        return True

    return fits


def _reads_map(cfg: ModelConfig) -> bool:
    return cfg.reads_map or cfg.fusion.max_images > 1


def _is_of_one_size(cfg: ModelConfig) -> bool:
    """Whether timm's model is made for images of one size, which timm has to be told."""
    known = timm.get_pretrained_cfg(cfg.backbone)
    return known is not None and known.fixed_input_size


def _take_classifier(backbone: nn.Module, cfg: ModelConfig) -> nn.Linear | nn.Conv2d | None:
    """Takes timm's classifier out and returns it; for a feature map also the pool, but keeps the norm."""
    if _reads_map(cfg):
        with _of_timm(_no_map(cfg), _AtAnySizeError):
            backbone.reset_classifier(0, "")
        return None
    with _of_timm(f"model.head {cfg.head.name} does not fit {cfg.backbone}", _AtAnySizeError):
        classifier = backbone.get_classifier()
        if not isinstance(classifier, nn.Linear | nn.Conv2d):
            raise TypeError(f"its classifier is {type(classifier).__name__}, not Linear")
        backbone.reset_classifier(0)
    return classifier


def _layout(backbone: nn.Module, cfg: ModelConfig, size: int, channels: int) -> FeatureLayout:
    """How to read what the backbone returns for images of this size."""
    # windows that do not divide the image show only when an image passes: better now than in training
    with _of_timm(f"{cfg.backbone} cannot take data.size {size}"):
        found = first_pass(backbone, size, channels)
    if not found.sees_the_edge:
        raise _DoesNotFitError(
            f"{cfg.backbone} at data.size {size} never sees the last pixels on the right and at the bottom"
        )
    if not _reads_map(cfg):
        return FeatureLayout("pooled", found.shape[1])
    try:
        return layout_of(backbone, found.shape, cfg.grid)
    except ValueError as error:
        raise _AtAnySizeError(f"{_no_map(cfg)}: {error}") from error


def _create_backbone(cfg: ModelConfig, n_classes: int, size: int, channels: int) -> nn.Module:
    """timm's model, its errors in words of the recipe."""
    # timm leaves out what is None: not every backbone knows stochastic depth; dropout is the head's
    options: dict[str, object] = {"drop_rate": 0.0, "drop_path_rate": cfg.drop_path or None}
    options |= {"in_chans": channels, "num_classes": n_classes}
    options |= {"img_size": size} if _is_of_one_size(cfg) else {}
    if not cfg.pretrained:
        with _of_timm(f"{cfg.backbone} cannot take data.size {size}"):
            return _created(cfg, options)
    if isinstance(cfg.pretrained, Path):
        options["pretrained_cfg_overlay"] = {"state_dict": local_weights(cfg)}
    try:
        return _created(cfg, options | {"pretrained": True})
    except UserError:
        raise
    except Exception as error:  # timm, torch and the hub each raise their own kinds
        _create_backbone(cfg.model_copy(update={"pretrained": False}), n_classes, size, channels)
        raise no_weights(cfg, error) from error


def _created(cfg: ModelConfig, options: dict[str, object]) -> nn.Module:
    try:
        with without_chatter():
            return timm.create_model(cfg.backbone, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise UserError(f"{cfg.backbone} has no stochastic depth: set model.drop_path to 0.") from error


def _no_map(cfg: ModelConfig) -> str:
    part = "model.fusion" if cfg.fusion.max_images > 1 else f"model.head {cfg.head.name}"
    return f"{cfg.backbone} has no feature map for {part} with model.pool {cfg.pool}"


@contextmanager
def _of_timm(sentence: str, kind: type[_DoesNotFitError] = _DoesNotFitError) -> Iterator[None]:
    """Within it run timm's models alone: what they raise is why they do not fit."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = shortened(" ".join(str(error).split()).rstrip("."), LONGEST_REASON)
        raise kind(f"{sentence}: {reason}" if reason else sentence) from error
