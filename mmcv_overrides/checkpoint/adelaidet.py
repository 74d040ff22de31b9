"""Names of FCOS in AdelaiDet and in detectron2 -> names of mmdet 3.x.

In the head, AdelaiDet's ``proposal_generator.fcos_head`` -> ``bbox_head``:

| AdelaiDet | mmdet |
|---|---|
| ``cls_tower.<conv>``, ``bbox_tower.<conv>`` | ``cls_convs.<layer>.conv``, ``reg_convs.<layer>.conv`` |
| ``cls_tower.<conv + 1>.weight`` (GroupNorm) | ``cls_convs.<layer>.gn.weight`` |
| ``cls_tower.<conv + 1>.<level>.running_mean`` (BatchNorm per level) | ``cls_convs.<layer>.bn.<level>.running_mean`` |
| ``cls_logits``, ``bbox_pred``, ``ctrness`` | ``conv_cls``, ``conv_reg``, ``conv_centerness`` |
| ``scales.<level>.scale`` [1] | ``scales.<level>.scale``, 0-d |

In detectron2's own FCOS, the head is called ``head``, its towers ``cls_subnet`` and ``bbox_subnet``, its class layer
``cls_score``; the rest is the same. A head without scales (detectron2; in AdelaiDet ``USE_SCALE False``) gets scales of
1.

In the backbone, ``backbone.bottom_up`` -> ``backbone``, and in the neck, ``backbone`` -> ``neck``:

| AdelaiDet | mmdet |
|---|---|
| ``stem.conv1``, ``res2.0.conv1`` | ``conv1``, ``layer1.0.conv1`` |
| ``res2.0.shortcut``, ``res2.0.conv1.norm`` | ``layer1.0.downsample.0``, ``layer1.0.bn1`` |
| ``fpn_lateral3``, ``fpn_output3`` | ``lateral_convs.0.conv``, ``fpn_convs.0.conv`` |
| ``top_block.p6`` | ``fpn_convs.3.conv`` |

A tower is a Sequential of convolution, norm and ReLU, so layer i has index 3 * i; without norm 2 * i. The convolutions
of AdelaiDet's towers have a bias (``conv_bias=True``), its centerness branch is on the box tower
(``centerness_on_reg=True``) and its distances are ReLU times stride (``norm_on_bbox=True``).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

_HEAD = "proposal_generator.fcos_head."
_TOWER = re.compile(r"(cls|bbox)_tower\.(\d+)\.((?:\d+\.)?)(\w+)")
_TOWERS = {"cls": "cls_convs", "bbox": "reg_convs"}
_PREDICTORS = {"cls_logits": "conv_cls", "bbox_pred": "conv_reg", "ctrness": "conv_centerness"}
# detectron2's names of the head -> AdelaiDet's.
_DETECTRON2 = (
    ("head.cls_subnet.", "cls_tower."),
    ("head.bbox_subnet.", "bbox_tower."),
    ("head.cls_score.", "cls_logits."),
    ("head.bbox_pred.", "bbox_pred."),
    ("head.ctrness.", "ctrness."),
)
_BODY = (
    (re.compile(r"^backbone\.bottom_up\.stem\.conv1\.norm\."), "backbone.bn1."),
    (re.compile(r"^backbone\.bottom_up\.stem\.conv1\."), "backbone.conv1."),
    (re.compile(r"^backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.norm\."), r"backbone.layer<\1>.\2.bn\3."),
    (re.compile(r"^backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\."), r"backbone.layer<\1>.\2.conv\3."),
    (re.compile(r"^backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm\."), r"backbone.layer<\1>.\2.downsample.1."),
    (re.compile(r"^backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\."), r"backbone.layer<\1>.\2.downsample.0."),
)
_NECK = re.compile(r"^backbone\.(fpn_lateral|fpn_output|top_block\.p)(\d)\.(weight|bias)$")


def is_adelaidet(weights: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of AdelaiDet's FCOS or of detectron2's."""
    return any(name.startswith(_HEAD) for name in weights) or "head.ctrness.weight" in weights


def _as_adelaidet(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """AdelaiDet's names for detectron2's."""
    if "head.ctrness.weight" not in weights:
        return weights
    named = {}
    for name, value in weights.items():
        old, new = next((pair for pair in _DETECTRON2 if name.startswith(pair[0])), ("", ""))
        named[f"{_HEAD}{new}{name.removeprefix(old)}" if old else name] = value
    return named


def mmdet_names(weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The same tensors under mmdet's names; a tensor without a counterpart keeps its name."""
    weights = _as_adelaidet(weights)
    convolutions = {tower: _convolutions(weights, tower) for tower in _TOWERS}
    first = min((int(found[2]) for found in map(_NECK.match, weights) if found), default=0)
    renamed: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in weights.items():
        if name.startswith(_HEAD):
            new = _head_name(name.removeprefix(_HEAD), convolutions, weights)
            value = value.reshape(()) if new is not None and new.startswith("scales.") and value.numel() == 1 else value
            new = None if new is None else f"bbox_head.{new}"
        else:
            new = _neck_name(name, first) or _body_name(name)
        renamed[new or name] = value
    if not any(name.startswith("bbox_head.scales.") for name in renamed):
        levels = sum(name.startswith("neck.fpn_convs.") and name.endswith("weight") for name in renamed)
        renamed.update({f"bbox_head.scales.{level}.scale": torch.tensor(1.0) for level in range(levels)})
    return renamed


def _convolutions(weights: Mapping[str, Tensor], tower: str) -> list[int]:
    """Indices of the convolutions of a tower in ascending order: the modules whose weight has four axes."""
    pattern = re.compile(re.escape(f"{_HEAD}{tower}_tower.") + r"(\d+)\.weight$")
    return sorted(int(found[1]) for found in map(pattern.match, weights) if found and weights[found[0]].dim() == 4)


def _head_name(name: str, convolutions: Mapping[str, list[int]], names: Collection[str]) -> str | None:
    found = _TOWER.fullmatch(name)
    if found:
        tower, index, level, leaf = found[1], int(found[2]), found[3], found[4]
        owner = max((i for i in convolutions[tower] if i <= index), default=None)
        if owner is None or index - owner > 1:
            return None
        by_level = f"{_HEAD}{tower}_tower.{index}.0.running_mean" in names  # detectron2: one weight for all levels
        part = "conv." if index == owner else f"bn.{level}" if level or by_level else "gn."
        return f"{_TOWERS[tower]}.{convolutions[tower].index(owner)}.{part}{leaf}"
    part, _, leaf = name.partition(".")
    return f"{_PREDICTORS[part]}.{leaf}" if part in _PREDICTORS else name if part == "scales" else None


def _body_name(name: str) -> str | None:
    for pattern, new in _BODY:
        if pattern.match(name):
            return re.sub(r"<(\d)>", lambda stage: str(int(stage[1]) - 1), pattern.sub(new, name))
    return None


def _neck_name(name: str, first: int) -> str | None:
    """Levels count from the first lateral; those of ``top_block`` are mmdet's extra convolutions after the outputs."""
    found = _NECK.match(name)
    if not found:
        return None
    part, level, leaf = found[1], int(found[2]), found[3]
    convs = "lateral_convs" if part == "fpn_lateral" else "fpn_convs"
    return f"neck.{convs}.{level - first}.conv.{leaf}"
