"""Optimiser, learning rate and averaged weights of a run, all three by timm."""

import copy

from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from cxrlt.models.backbone import XRayModel
from cxrlt.models.chatter import without_chatter
from cxrlt.recipe import OptimConfig, ScheduleConfig

FUSED = ("cpu", "cuda")
"""Devices where one kernel does the whole step, in a fifth of the time of the loop over weights."""


def create_optimizer(model: XRayModel, cfg: OptimConfig) -> Optimizer:
    """AdamW or Adam; the learning rate falls by `layer_decay` per block, below head and fusion.

    That of the backbone is `backbone_lr_share` of it. AdamW has no weight decay on biases and norms; Adam's
    is an L2 penalty on them too, as in torch.
    """
    optimizer = create_optimizer_v2(
        _as_timm_knows_it(model),
        opt=cfg.optimizer,
        lr=cfg.lr,
        weight_decay=cfg.weight_decay,
        layer_decay=cfg.layer_decay if model.backbone is not None else None,
        filter_bias_and_bn=cfg.optimizer == "adamw",
        fused=all(weight.device.type in FUSED for weight in model.parameters()),
    )
    if model.backbone is not None and cfg.backbone_lr_share < 1:
        _slow_down(optimizer, model.backbone, cfg.backbone_lr_share)
    return optimizer


def _slow_down(optimizer: Optimizer, part: nn.Module, share: float) -> None:
    """Give the weights of `part` groups of their own, whose `lr_scale` timm's schedulers multiply by."""
    inside = {id(weight) for weight in part.parameters()}
    groups = []
    for group in optimizer.param_groups:
        for scale, is_inside in ((1.0, False), (share, True)):
            weights = [weight for weight in group["params"] if (id(weight) in inside) == is_inside]
            if weights:
                groups.append(group | {"params": weights, "lr_scale": group.get("lr_scale", 1.0) * scale})
    optimizer.param_groups[:] = groups


def _as_timm_knows_it(model: XRayModel) -> nn.Module:
    """The backbone with fusion and head as its last layers: timm tells blocks by the names in a backbone."""
    if model.backbone is None:
        return model
    whole = copy.copy(model.backbone)
    whole._modules = {**model.backbone._modules, "xray_fusion": model.fusion, "xray_head": model.head}
    return whole


def create_scheduler(optimizer: Optimizer, cfg: ScheduleConfig, n_updates: int) -> Scheduler:
    """Learning rate of update u (from 0) of n, set by `step_update(u)`; w = warm-up updates, m = the least.

    u < w:  lr (u + 1) / (w + 1);   else  m + (lr - m) (1 + cos(pi (u - w) / (n - 1 - w))) / 2,
    or with kind "step"  lr step_factor^floor(e / step_epochs), e = epochs done.
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
    with without_chatter():
        return CosineLRScheduler(
            optimizer,
            t_initial=max(n_updates - 1 - warmup, 1),
            lr_min=lr * cfg.min_lr_share,
            warmup_prefix=True,
            **shared,
        )


def create_ema(model: nn.Module, share: float, n_updates: int) -> ModelEmaV3:
    """Moving average of the weights over a horizon of `share` of the run, shorter in the first updates.

    A fixed decay would leave a short run at its initial weights, or barely smooth a long one.
    """
    horizon = max(share * n_updates, 1.0)
    return ModelEmaV3(model, decay=1 - 1 / horizon, use_warmup=True, warmup_power=0.8)
