"""Which heads of mmdet have a fixed-shape form."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from fcos_train.models.level_heads import LEVEL
from mmcv_overrides.errors import UserError

FIXED_SHAPE = {
    "FCOSHead": "FixedShapeFCOSHead",
    "FSAFHead": "FixedShapeFSAFHead",
    "SqrtScoreFCOSHead": "FixedShapeSqrtScoreFCOSHead",
}
# The head that each fixed-shape head stands for; configs and checkpoints of earlier releases have names with Static.
STOCK_OF_FIXED_SHAPE = {
    **{fixed: stock for stock, fixed in FIXED_SHAPE.items()},
    "StaticFCOSHead": "FCOSHead",
    "StaticFSAFHead": "FSAFHead",
}


def fixed_shape_head_of(model: dict[str, Any]) -> tuple[str | None, str]:
    """The fixed-shape head that can replace the ``bbox_head`` of a model.

    Args:
        model: the ``model`` section of a config, which is not changed.
    Returns:
        its registered name or None, and a line for the log: which head is used, or why there is none.
    """
    head = model.get("bbox_head")
    head = head if isinstance(head, dict) else {}
    name = str(head.get("type", "")).removeprefix("mmdet.")
    name = {level: stock for stock, level in LEVEL.items()}.get(name, name)
    name = STOCK_OF_FIXED_SHAPE.get(name, name)
    if name not in FIXED_SHAPE:
        return None, f"{name or model.get('type', 'the model')} has no fixed-shape form"
    config = ConfigDict(copy.deepcopy(dict(head)), type=FIXED_SHAPE[name], init_cfg=None)
    config.update(train_cfg=model.get("train_cfg"), test_cfg=model.get("test_cfg"))
    try:
        with torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope("mmdet"):
            MODELS.build(config)  # the constructor refuses what it does not cover
    except UserError as error:
        return None, str(error)
    return FIXED_SHAPE[name], f"{name.removesuffix('Head')} head"
