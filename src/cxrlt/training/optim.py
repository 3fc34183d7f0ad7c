"""Optimiser, learning rate schedule and EMA of the weights, all from timm."""

import copy

from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from cxrlt.models.backbone import XRayModel
from cxrlt.models.timm_logging import quiet_timm
from cxrlt.recipe import OptimConfig, ScheduleConfig

FUSED_DEVICES = ("cpu", "cuda")
"""Devices with a fused optimiser step: measured, it takes a fifth of the time of the loop over weights."""


def create_optimizer(model: XRayModel, cfg: OptimConfig) -> Optimizer:
    """Create AdamW or Adam, with learning rates that fall by `layer_decay` per block below fusion and head.

    The backbone's learning rate is also multiplied by `backbone_lr_share`. AdamW has no weight decay on
    biases and norms. Adam has an L2 penalty on all weights, as in torch.
    """
    optimizer = create_optimizer_v2(
        _as_timm_model(model),
        opt=cfg.optimizer,
        lr=cfg.lr,
        weight_decay=cfg.weight_decay,
        layer_decay=cfg.layer_decay if model.backbone is not None else None,
        filter_bias_and_bn=cfg.optimizer == "adamw",
        fused=all(weight.device.type in FUSED_DEVICES for weight in model.parameters()),
    )
    if model.backbone is not None and cfg.backbone_lr_share < 1:
        _scale_lr(optimizer, model.backbone, cfg.backbone_lr_share)
    return optimizer


def _scale_lr(optimizer: Optimizer, part: nn.Module, share: float) -> None:
    """Split the parameter groups: multiply the `lr_scale` of the weights in `part`, which timm applies."""
    inside = {id(weight) for weight in part.parameters()}
    groups = []
    for group in optimizer.param_groups:
        for scale, is_inside in ((1.0, False), (share, True)):
            weights = [weight for weight in group["params"] if (id(weight) in inside) == is_inside]
            if weights:
                groups.append(group | {"params": weights, "lr_scale": group.get("lr_scale", 1.0) * scale})
    optimizer.param_groups[:] = groups


def _as_timm_model(model: XRayModel) -> nn.Module:
    """Return the backbone with fusion and head as last layers: timm finds blocks by their names."""
    if model.backbone is None:
        return model
    combined = copy.copy(model.backbone)
    combined._modules = {**model.backbone._modules, "xray_fusion": model.fusion, "xray_head": model.head}
    return combined


def create_scheduler(optimizer: Optimizer, cfg: ScheduleConfig, n_updates: int) -> Scheduler:
    """Create the schedule; `step_update(u)` sets the learning rate of update u, counted from 0.

    With n updates, w warm-up updates and the minimum m, the learning rate is
    u < w:  lr (u + 1) / (w + 1);   else  m + (lr - m) (1 + cos(pi (u - w) / (n - 1 - w))) / 2.
    After warm-up, kind "step" uses  lr step_factor^floor(e / step_epochs), with e finished epochs.
    """
    lr = max(
        group["initial_lr"] if "initial_lr" in group else group["lr"] for group in optimizer.param_groups
    )
    warmup = min(round(cfg.warmup_share * n_updates), n_updates - 1)
    shared = {"warmup_t": warmup, "warmup_lr_init": lr / (warmup + 1), "t_in_epochs": False}
    if cfg.kind == "step":
        decay_t = cfg.step_epochs * n_updates // cfg.epochs
        return StepLRScheduler(
            optimizer, decay_t=decay_t, decay_rate=cfg.step_factor, warmup_prefix=False, **shared
        )
    with quiet_timm():
        return CosineLRScheduler(
            optimizer,
            t_initial=max(n_updates - 1 - warmup, 1),
            lr_min=lr * cfg.min_lr_share,
            warmup_prefix=True,
            **shared,
        )


def create_ema(model: nn.Module, share: float, n_updates: int) -> ModelEmaV3:
    """Create the EMA of the weights over `share` of the run, and over fewer updates at its start.

    A fixed decay would keep a short run near its initial weights, or hardly smooth a long one.
    """
    horizon = max(share * n_updates, 1.0)
    return ModelEmaV3(model, decay=1 - 1 / horizon, use_warmup=True, warmup_power=0.8)
