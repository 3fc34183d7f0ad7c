"""What timm says to its developers is not shown, and what it says to users is."""

import logging
import warnings

import pytest
import timm
import torch

from cxrlt.errors import UserError
from cxrlt.models.backbone import create_model
from cxrlt.models.timm_logging import IGNORED_LOG_LINES, quiet_timm
from cxrlt.recipe import ModelConfig, ScheduleConfig
from cxrlt.training.optim import create_scheduler


def test_an_old_name_of_a_backbone_is_no_warning(recwarn):
    cfg = ModelConfig(backbone="vit_tiny_patch16_224_in21k", pretrained=False)
    with pytest.warns(UserWarning, match="Mapping deprecated model name"):
        timm.create_model(cfg.backbone)
    recwarn.clear()
    create_model(cfg, 3, 224)
    assert [str(warning.message) for warning in recwarn] == []


def test_a_run_of_one_update_is_no_warning(caplog):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    timm.scheduler.CosineLRScheduler(optimizer, t_initial=1)
    assert "will have no effect" in caplog.text
    caplog.clear()
    create_scheduler(optimizer, ScheduleConfig(), 1)
    assert caplog.text == ""


def test_weights_of_a_classifier_that_is_left_out_are_no_warning(caplog):
    state = timm.create_model("test_resnet").state_dict()
    overlay = {"state_dict": state, "num_classes": 1000, "classifier": "head.fc.other"}
    create = {"pretrained": True, "num_classes": 0, "pretrained_cfg_overlay": overlay}
    timm.create_model("test_resnet", **create)
    assert "Unexpected keys" in caplog.text
    caplog.clear()
    with quiet_timm():
        timm.create_model("test_resnet", **create)
    assert caplog.text == ""


def test_a_warning_that_says_something_is_shown_once_though_other_sizes_are_tried(recwarn):
    with pytest.raises(UserError, match=r"csatv2 cannot take data\.size 96"):
        create_model(ModelConfig(backbone="csatv2", pretrained=False), 3, 96)
    (warning,) = recwarn
    assert "designed for 3-channel RGB input" in str(warning.message)


def test_other_lines_and_warnings_are_shown_and_nothing_is_left_behind(caplog):
    loggers = [logging.getLogger(name) for name in IGNORED_LOG_LINES]
    with pytest.warns(UserWarning, match="to be seen"), quiet_timm():
        warnings.warn("to be seen", stacklevel=1)
        for logger in loggers:
            logger.warning("to be read")
    assert caplog.messages == ["to be read"] * len(loggers)
    assert not any(logger.filters for logger in loggers)
