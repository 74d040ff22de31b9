"""Exceptions of parts that cannot be built: the dotted path of the part, and the user's own code left alone."""

import sys
import types

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config

from fcos_train.config.keys.bounds import require_values
from fcos_train.config.part_named import parts_named
from mmcv_overrides.errors import UserError

FOREIGN = """
class Foreign:
    def __init__(self, depth):
        raise ValueError(f"no depth {depth}")
"""


def model(**backbone) -> Config:
    neck = dict(type="FPN", in_channels=[64, 128, 256, 512], out_channels=8, num_outs=5)
    head = dict(type="FCOSHead", num_classes=3, in_channels=8)
    return Config(dict(model=dict(type="FCOS", backbone=dict(type="ResNet", **backbone), neck=neck, bbox_head=head)))


def test_the_innermost_part_is_named():
    cfg = model(depth=19)
    with (
        pytest.raises(UserError, match=r"model\.backbone \(ResNet\) cannot be built: KeyError: invalid depth 19"),
        parts_named(cfg),
    ):
        MODELS.build(cfg.model)
    cfg = model(depth=18, norm_cfg=dict(type="GN", num_groups=7))
    with (
        pytest.raises(UserError, match=r"model\.backbone \(ResNet\) cannot be built: ValueError: .* divisible"),
        parts_named(cfg),
    ):
        MODELS.build(cfg.model)


def test_a_class_of_the_users_own_keeps_its_traceback():
    module = types.ModuleType("their_models")
    sys.modules["their_models"] = module
    exec(compile(FOREIGN, "their_models.py", "exec"), vars(module))
    MODELS.register_module(name="Foreign", module=module.Foreign, force=True)
    cfg = model(depth=3)
    cfg.model.backbone.type = "Foreign"
    try:
        with pytest.raises(ValueError, match="no depth 3"), parts_named(cfg):
            MODELS.build(cfg.model)
    finally:
        MODELS.module_dict.pop("Foreign")
        del sys.modules["their_models"]


def test_a_fault_elsewhere_is_left_alone():
    with pytest.raises(ZeroDivisionError), parts_named(model(depth=18)):
        1 / 0  # noqa: B018


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"train_dataloader": {"batch_size": True}}, "train_dataloader.batch_size=True: must be a whole number"),
        ({"train_dataloader": {"batch_size": 2.0}}, None),
        ({"optim_wrapper": {"optimizer": {"type": "SGD"}}}, "optim_wrapper.optimizer.lr: the optimizer has no"),
        ({"optim_wrapper": {"clip_grad": {"max_norm": float("inf")}}}, None),
        ({"default_hooks": {"checkpoint": {"interval": -1}}}, None),
        ({"model": {"head": [{"loss": {"loss_weight": float("nan")}}]}}, "model.head.0.loss.loss_weight=nan: must be"),
        (
            {"model": {"head": {"strides": [[8, 8], [16, 0]]}}},
            r"model.head.strides=\[\[8, 8\], \[16, 0\]\]: each must be",
        ),
    ],
)
def test_values(values, says):
    if says is None:
        return require_values(values)
    with pytest.raises(UserError, match=says):
        require_values(values)
