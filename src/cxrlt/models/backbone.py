"""The model: a timm backbone for images of one or three channels, optional fusion of a study, and a head."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cxrlt.errors import UserError, shortened
from cxrlt.heads import create_head
from cxrlt.heads.linear import LinearHead
from cxrlt.heads.pools import create_pool
from cxrlt.models.backbone_options import create_options, options_error
from cxrlt.models.dry_run import dry_run
from cxrlt.models.feature_layout import FeatureLayout, infer_layout
from cxrlt.models.fusion import StudyEncoder
from cxrlt.models.pretrained import load_file, stem_normalisation, weights_error
from cxrlt.models.suggestions import FitsCheck, suggest_fix
from cxrlt.models.timm_logging import quiet_timm
from cxrlt.recipe import ModelConfig
from cxrlt.spelling import did_you_mean

Inputs = dict[str, Tensor]
"""Images: images uint8 (n, channels, height, width) or features (n, n_tokens, dim). Studies: one of the two
with a second dimension, (n, n_images, ...), and views int64 (n, n_images), present bool (n, n_images)."""


MAX_REASON_LENGTH = 160
"""Largest number of characters of a timm or torch message in an error."""


class XRayModel(nn.Module):
    """Backbone, fusion and head: from `Inputs` to logits (n, n_classes).

    Images / 255 are normalised on the device with `mean` and `std`, one number per input channel of the
    backbone. Images of one channel for a backbone of three are copied to three. In eval mode the logits of a
    row depend only on the images of that row.
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
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
    ) -> None:
        super().__init__()
        self.backbone, self.layout, self.fusion, self.head = backbone, layout, fusion, head
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("logit_scale", torch.ones(()))  # saved with the weights

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the logits (n, n_classes) that the loss is computed from."""
        features = inputs["features"] if "features" in inputs else self._compute_features(inputs)
        if self.fusion is None:
            return self.head(features)
        return self.head(*self.fusion(features, inputs["views"], inputs["present"]))

    def predict(self, inputs: Inputs) -> Tensor:
        """Return logits (n, n_classes) for a sigmoid or softmax, with the scale of a loss such as LDAM."""
        return self.logit_scale * self(inputs).float()

    def features(self, images: Tensor) -> Tensor:
        """Convert images uint8 (n, channels, height, width) to features (n, n_tokens, dim)."""
        assert self.backbone is not None, "a model without backbone takes features"
        return self.layout.features(self.backbone((images.float() / 255 - self.mean) / self.std))

    @property
    def in_chans(self) -> int:
        """The number of input channels of the backbone: 3, or 1 for most grey images."""
        return len(self.mean)

    @property
    def classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def without_backbone(self) -> "XRayModel":
        """Return a model that takes features and shares head, fusion and logit scale with this one."""
        light = XRayModel(None, self.layout, self.fusion, self.head)
        light.logit_scale = self.logit_scale
        return light.train(self.training)

    def _compute_features(self, inputs: Inputs) -> Tensor:
        """Return features; padding of studies does not pass through the backbone and has features 0."""
        if self.fusion is None:
            return self.features(inputs["images"])
        present = inputs["present"]
        computed = self.features(inputs["images"][present])
        features = computed.new_zeros(*present.shape, *computed.shape[1:])
        features[present] = computed
        return features


_LAYOUTS: dict[tuple[ModelConfig, int, int], FeatureLayout] = {}
"""Cache: every fold creates the same model, for training and for prediction."""


def create_model(
    cfg: ModelConfig,
    n_classes: int,
    size: int,
    channels: int = 1,
    load_pretrained: bool = True,
    log: Callable[[str], object] = lambda _: None,
) -> XRayModel:
    """Create the model of a recipe for `n_classes` classes and `size` x `size` images of 1 or 3 `channels`.

    Without `load_pretrained` it is the same model with random weights, and the file model.pretrained is not
    read. `log` is called with lines about the weights of such a file. Raises UserError for an unknown
    backbone or option, a size, pool, head or fusion that does not fit it, a size whose last pixels it never
    sees, and pretrained weights that cannot be loaded.
    """
    architecture = cfg.backbone.split(".")[0]
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models())
        raise UserError(f"model.backbone {cfg.backbone!r} is not a timm model{hint}.")
    try:
        timm.get_pretrained_cfg(cfg.backbone)
    except RuntimeError as error:
        hint = did_you_mean(cfg.backbone, timm.list_pretrained(architecture))
        raise UserError(
            f"model.backbone {cfg.backbone!r}: timm has no weights of this name{hint}."
        ) from error
    if cfg.grid is not None and not _needs_feature_map(cfg):
        raise UserError("model.grid needs a feature map: use another model.pool than backbone.")
    mean, std = stem_normalisation(cfg, channels)
    try:
        from_timm = load_pretrained and cfg.pretrained is True
        backbone = _create_backbone(cfg, n_classes, size, len(mean), pretrained=from_timm)
        if load_pretrained and isinstance(cfg.pretrained, Path):
            load_file(backbone, cfg, log)
        model = _add_head(cfg, backbone, n_classes, size, mean, std)
    except _DoesNotFitError as error:
        never_fits = isinstance(error, _NeverFitsError)
        raise UserError(
            f"{error}. {suggest_fix(cfg, size, _create_fits_check(len(mean)), never_fits)}"
        ) from error
    return model.to(memory_format=torch.channels_last)  # faster on GPU and CPU


class _DoesNotFitError(Exception):
    """Backbone, size, pool and head do not fit together; the message is the beginning of a sentence."""


class _NeverFitsError(_DoesNotFitError):
    """They do not fit together at any size."""


def _add_head(
    cfg: ModelConfig,
    backbone: nn.Module,
    n_classes: int,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> XRayModel:
    """Return the model: this backbone without its classifier, normalisation, fusion and head."""
    classifier = _remove_classifier(backbone, cfg)
    key = (cfg.model_copy(update={"pretrained": False}), size, len(mean))
    if key not in _LAYOUTS:
        _LAYOUTS[key] = _find_layout(backbone, cfg, size, len(mean))
    layout = _LAYOUTS[key]
    uses_fusion = cfg.fusion.max_images > 1
    fusion = StudyEncoder(layout.dim, cfg.fusion) if uses_fusion else None
    head = _create_head(cfg, cfg.fusion.dim if uses_fusion else layout.dim, n_classes)
    if classifier is not None and isinstance(head, LinearHead):
        with torch.no_grad():
            head.weight.copy_(classifier.weight.flatten(1))  # some have a 1 x 1 convolution
            if classifier.bias is not None:
                head.bias.copy_(classifier.bias)
    return XRayModel(backbone, layout, fusion, head, mean, std)


def require_head_options(cfg: ModelConfig) -> None:
    """Raises UserError for options that the recipe's head does not have."""
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


def _create_fits_check(in_chans: int) -> FitsCheck:
    """Return a function that tries models on the meta device, without computing."""

    @cache
    def create_meta_backbone(cfg: ModelConfig, size: int) -> nn.Module:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the requested model has already warned
            backbone = _create_backbone(cfg, 1, size, in_chans)
        _remove_classifier(backbone, cfg)
        return backbone

    def fits(cfg: ModelConfig, size: int) -> bool:
        try:
            backbone = create_meta_backbone(cfg, size if _has_fixed_size(cfg) else 0)
            _find_layout(backbone, cfg, size, in_chans)
        except _DoesNotFitError:
            return False
        return True

    return fits


def _needs_feature_map(cfg: ModelConfig) -> bool:
    return cfg.reads_map or cfg.fusion.max_images > 1


def _has_fixed_size(cfg: ModelConfig) -> bool:
    """Return whether the backbone has a fixed input size, so that timm needs `img_size`."""
    pretrained_cfg = timm.get_pretrained_cfg(cfg.backbone)
    return pretrained_cfg is not None and pretrained_cfg.fixed_input_size


def _remove_classifier(backbone: Any, cfg: ModelConfig) -> nn.Linear | nn.Conv2d | None:
    """Remove and return timm's classifier; for a feature map also remove the pool, but keep the norm."""
    if _needs_feature_map(cfg):
        with _explain_timm_errors(_no_map_message(cfg), _NeverFitsError):
            backbone.reset_classifier(0, "")
        return None
    with _explain_timm_errors(f"model.head {cfg.head.name} does not fit {cfg.backbone}", _NeverFitsError):
        classifier = backbone.get_classifier()
        if not isinstance(classifier, nn.Linear | nn.Conv2d):
            raise TypeError(f"its classifier is {type(classifier).__name__}, not Linear")
        backbone.reset_classifier(0)
    return classifier


def _find_layout(backbone: nn.Module, cfg: ModelConfig, size: int, in_chans: int) -> FeatureLayout:
    """Return the layout of the backbone's output for images of this size."""
    # some size errors, such as windows that do not divide the image, appear only in a forward pass
    with _explain_timm_errors(_no_size_message(cfg, size)):
        found = dry_run(backbone, size, in_chans)
    if not found.sees_last_pixels:
        raise _DoesNotFitError(
            f"{cfg.backbone} at data.size {size} never sees the last pixels at the right and the bottom"
        )
    if not _needs_feature_map(cfg):
        return FeatureLayout("pooled", found.shape[1])
    try:
        return infer_layout(backbone, found.shape, cfg.grid)
    except ValueError as error:
        raise _NeverFitsError(f"{_no_map_message(cfg)}: {error}") from error


def _create_backbone(
    cfg: ModelConfig, n_classes: int, size: int, in_chans: int, pretrained: bool = False
) -> nn.Module:
    """Create timm's model, `pretrained` with timm's weights; its errors name the fields of the recipe."""
    options = create_options(cfg)
    # timm drops options that are None, as not every backbone has stochastic depth; dropout is in the head
    options |= {"drop_rate": 0.0, "drop_path_rate": cfg.drop_path or None}
    options |= {"in_chans": in_chans, "num_classes": n_classes}
    options |= {"img_size": size} if _has_fixed_size(cfg) else {}
    if not pretrained:
        with _explain_timm_errors(_no_size_message(cfg, size)):
            return _create_timm_model(cfg, options)
    try:
        return _create_timm_model(cfg, options | {"pretrained": True})
    except UserError:
        raise
    except Exception as error:  # timm, torch and the Hugging Face Hub raise different errors
        # raises another error if the weights are not the cause
        _create_backbone(cfg, n_classes, size, in_chans)
        raise weights_error(cfg, error) from error


def _create_timm_model(cfg: ModelConfig, options: dict[str, Any]) -> nn.Module:
    try:
        with quiet_timm():
            return timm.create_model(cfg.backbone, **options)
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise UserError(f"{cfg.backbone} has no stochastic depth: set model.drop_path to 0.") from error
        explained = options_error(cfg, error)
        if explained is None:
            raise
        raise explained from error


def _no_size_message(cfg: ModelConfig, size: int) -> str:
    options = ", ".join(f"{name} {value}" for name, value in cfg.options.items())
    return f"{cfg.backbone} cannot take data.size {size}{options and f' with model.options {options}'}"


def _no_map_message(cfg: ModelConfig) -> str:
    part = "model.fusion" if cfg.fusion.max_images > 1 else f"model.head {cfg.head.name}"
    return f"{cfg.backbone} has no feature map for {part} with model.pool {cfg.pool}"


@contextmanager
def _explain_timm_errors(sentence: str, kind: type[_DoesNotFitError] = _DoesNotFitError) -> Iterator[None]:
    """Context manager that turns every error into `kind`; only timm's code may run inside."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = shortened(" ".join(str(error).split()).rstrip("."), MAX_REASON_LENGTH)
        raise kind(f"{sentence}: {reason}" if reason else sentence) from error
