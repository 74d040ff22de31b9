"""Names of torchvision's ``fcos_resnet50_fpn`` -> names of mmdet 3.x.

| torchvision | mmdet |
|---|---|
| ``backbone.body.conv1``, ``backbone.body.layer1.0.conv1`` | ``backbone.conv1``, ``backbone.layer1.0.conv1`` |
| ``backbone.fpn.inner_blocks.0.0`` | ``neck.lateral_convs.0.conv`` |
| ``backbone.fpn.layer_blocks.0.0`` | ``neck.fpn_convs.0.conv`` |
| ``backbone.fpn.extra_blocks.p6``, ``p7`` | ``neck.fpn_convs.3.conv``, ``4`` |
| ``head.classification_head.conv.0``, ``3``, ``6``, ``9`` | ``bbox_head.cls_convs.0.conv``, ``1``, ``2``, ``3`` |
| ``head.classification_head.conv.1`` (GroupNorm) | ``bbox_head.cls_convs.0.gn`` |
| ``head.regression_head.conv.0`` | ``bbox_head.reg_convs.0.conv`` |
| ``head.classification_head.cls_logits`` | ``bbox_head.conv_cls`` |
| ``head.regression_head.bbox_reg``, ``bbox_ctrness`` | ``bbox_head.conv_reg``, ``conv_centerness`` |
| nothing | ``bbox_head.scales.<level>.scale``, 1 |

Releases before 0.13 wrote ``inner_blocks.0`` without the second index. The classes of weights for COCO are its category
ids, 0 to 90: the rows of the 80 categories that exist are kept, in the order of COCO.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

_MARK = "head.regression_head.bbox_ctrness.weight"
_TOWER = re.compile(r"^head\.(classification|regression)_head\.conv\.(\d+)\.(weight|bias)$")
_TOWERS = {"classification": "cls_convs", "regression": "reg_convs"}
_RULES = (
    (re.compile(r"^backbone\.body\."), "backbone."),
    (re.compile(r"^backbone\.fpn\.inner_blocks\.(\d+)(?:\.0)?\.(weight|bias)$"), r"neck.lateral_convs.\1.conv.\2"),
    (re.compile(r"^backbone\.fpn\.layer_blocks\.(\d+)(?:\.0)?\.(weight|bias)$"), r"neck.fpn_convs.\1.conv.\2"),
    (re.compile(r"^head\.classification_head\.cls_logits\."), "bbox_head.conv_cls."),
    (re.compile(r"^head\.regression_head\.bbox_reg\."), "bbox_head.conv_reg."),
    (re.compile(r"^head\.regression_head\.bbox_ctrness\."), "bbox_head.conv_centerness."),
)
_EXTRA = re.compile(r"^backbone\.fpn\.extra_blocks\.p(\d)\.(weight|bias)$")
_FIRST_EXTRA = 6  # P6
_COCO_ROWS = 91
_COCO_GAPS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # the background, and ids without a category
STEP = 3  # convolution, GroupNorm, ReLU


def is_torchvision(weights: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of torchvision's FCOS."""
    return _MARK in weights


def mmdet_names_of_torchvision(weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The same tensors under mmdet's names, and a scale of 1 for each level; other tensors keep their name."""
    inner = sum(name.startswith("backbone.fpn.inner_blocks.") and name.endswith("weight") for name in weights)
    renamed = OrderedDict((_name(name, inner), value) for name, value in weights.items())
    levels = sum(name.startswith("neck.fpn_convs.") and name.endswith("weight") for name in renamed)
    for name in ("bbox_head.conv_cls.weight", "bbox_head.conv_cls.bias"):
        if len(renamed.get(name, ())) == _COCO_ROWS:
            renamed[name] = renamed[name][[row for row in range(_COCO_ROWS) if row not in _COCO_GAPS]]
    renamed.update({f"bbox_head.scales.{level}.scale": torch.tensor(1.0) for level in range(levels)})
    return renamed


def _name(name: str, outputs: int) -> str:
    """``outputs``: number of levels in front of P6."""
    tower, extra = _TOWER.match(name), _EXTRA.match(name)
    if tower:
        layer, part = divmod(int(tower[2]), STEP)
        return f"bbox_head.{_TOWERS[tower[1]]}.{layer}.{'gn' if part else 'conv'}.{tower[3]}"
    if extra:
        return f"neck.fpn_convs.{outputs + int(extra[1]) - _FIRST_EXTRA}.conv.{extra[2]}"
    for pattern, new in _RULES:
        if pattern.match(name):
            return pattern.sub(new, name)
    return name
