"""A timm backbone that reads radiographs of one channel, or of three."""

import difflib
from pathlib import Path

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from cxrlt.errors import UserError, listing
from cxrlt.models.head import CosineLinear, use_cosine_head
from cxrlt.recipe import ModelConfig


class XRayModel(nn.Module):
    """uint8 radiographs (n, channels, h, w) to logits (n, c).

    Images are normalised here, on the device, with the mean and standard deviation that the backbone's own
    weights were trained with: channel by channel for three, their means for one. Without `normalise` the
    backbone sees grey values / 255.
    """

    mean: Tensor
    std: Tensor
    logit_scale: Tensor

    def __init__(self, backbone: nn.Module, channels: int = 1, normalise: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        cfg = backbone.pretrained_cfg if normalise else {"mean": (0.0,), "std": (1.0,)}
        for name in ("mean", "std"):
            values = torch.tensor(cfg[name]).reshape(-1, 1, 1)
            if channels == 1:
                values = values.mean(dim=0, keepdim=True)
            self.register_buffer(name, values, persistent=False)
        self.register_buffer("logit_scale", torch.ones(()))  # travels with the weights

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone((images.float() / 255 - self.mean) / self.std)

    def predict(self, images: Tensor) -> Tensor:
        """Logits whose sigmoid or softmax are the probabilities, whatever scale the loss trained them at."""
        return self.logit_scale * self(images).float()

    @property
    def classifier(self) -> nn.Linear | CosineLinear:
        return self.backbone.get_classifier()


def create_model(cfg: ModelConfig, n_classes: int, size: int, channels: int = 1) -> XRayModel:
    """The model of a recipe for `n_classes` classes and `size` x `size` images of 1 or 3 `channels`.

    Raises UserError for an unknown backbone, a size or head it cannot take, weights that cannot be had or do
    not fit.
    """
    architecture = cfg.backbone.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models())
        hint = f" (did you mean {', '.join(near)}?)" if near else ""
        raise UserError(f"model.backbone {cfg.backbone!r} is not a timm model{hint}.")
    known = timm.get_pretrained_cfg(cfg.backbone)
    fixed_size = known is not None and known.fixed_input_size
    options: dict[str, object] = {"in_chans": channels, "num_classes": n_classes}
    backbone = _create_backbone(cfg, size, options | ({"img_size": size} if fixed_size else {}))
    if cfg.head == "cosine":
        try:
            use_cosine_head(backbone)
        except ValueError as error:
            raise UserError(f"model.head cosine does not fit {cfg.backbone}: {error}.") from error
    model = XRayModel(backbone, channels, cfg.normalise)
    model = model.to(memory_format=torch.channels_last)  # faster on GPUs and CPUs alike
    if fixed_size:
        _require_fit(model, cfg, size, channels)
    return model


def weights_licence(cfg: ModelConfig) -> str:
    """Licence of the pretrained weights, as timm states it."""
    if cfg.pretrained is False:
        return "none (random weights)"
    if isinstance(cfg.pretrained, Path):
        return f"as stated by the source of {cfg.pretrained}"
    known = timm.get_pretrained_cfg(cfg.backbone)
    return (known and known.license) or "not stated by timm"


def _create_backbone(cfg: ModelConfig, size: int, options: dict[str, object]) -> nn.Module:
    """timm's model, its errors in words of the recipe."""
    # timm leaves out what is None: not every backbone knows stochastic depth
    options = options | {"drop_rate": cfg.drop_rate, "drop_path_rate": cfg.drop_path or None}
    if isinstance(cfg.pretrained, Path):
        options["pretrained_cfg_overlay"] = {"state_dict": _local_weights(cfg)}
    try:
        return timm.create_model(cfg.backbone, pretrained=bool(cfg.pretrained), **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise UserError(f"{cfg.backbone} has no stochastic depth: set model.drop_path to 0.") from error
    except (AssertionError, ValueError) as error:
        raise _wrong_size(cfg, size, error) from error
    except (RuntimeError, OSError) as error:
        if not cfg.pretrained:
            raise
        raise UserError(_no_weights(cfg, error)) from error


def _require_fit(model: XRayModel, cfg: ModelConfig, size: int, channels: int) -> None:
    """Windows that do not divide the image show only when an image passes: better now than in training."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, size, size, dtype=torch.uint8))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _wrong_size(cfg, size, error) from error


def _wrong_size(cfg: ModelConfig, size: int, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(
        f"{cfg.backbone} cannot take data.size {size} (a multiple of 32 is the safest): {reason}"
    )


def _local_weights(cfg: ModelConfig) -> dict[str, Tensor]:
    """The tensors in the file, checked against the backbone: timm itself only warns of missing ones."""
    path = Path(cfg.pretrained)
    if not path.is_file():
        raise UserError(f"model.pretrained: {path} does not exist. {_where_to_get(cfg)}")
    try:
        state = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and safetensors each raise their own kinds
        raise UserError(
            f"model.pretrained: {path} holds no weights that can be read safely ({error})."
        ) from error
    own = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
    state = own or state  # a run's weights hold more than its backbone
    bare = timm.create_model(cfg.backbone, pretrained=False, in_chans=1, num_classes=0)
    missing = [key for key in bare.state_dict() if key not in state]
    if missing:
        raise UserError(
            f"model.pretrained: {path} lacks {len(missing)} tensors of {cfg.backbone} "
            f"({listing(missing, 3)}). {_where_to_get(cfg)}"
        )
    return state


def _no_weights(cfg: ModelConfig, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"The weights of {cfg.backbone} could not be loaded ({reason}). {_where_to_get(cfg)}"


def _where_to_get(cfg: ModelConfig) -> str:
    known = timm.get_pretrained_cfg(cfg.backbone)
    source = (
        f"{known.hf_hub_id}/model.safetensors of the Hugging Face hub"
        if known and known.hf_hub_id
        else "a file"
    )
    return (
        f"Get {source} on a machine with network and pass --model.pretrained FILE, "
        "or start from random weights with --model.pretrained False."
    )
