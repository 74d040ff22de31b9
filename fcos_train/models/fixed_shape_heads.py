"""Which configured heads have a fixed-shape form."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from fcos_train.models.level_heads import LEVEL
from mmcv_overrides.errors import UserError

STATIC = {"FCOSHead": "StaticFCOSHead", "FSAFHead": "StaticFSAFHead"}
STOCK = {static: stock for stock, static in STATIC.items()}


def static_head_of(model: dict[str, Any]) -> tuple[str | None, str]:
    """The fixed-shape head that can take the place of a model's ``bbox_head``.

    Args:
        model: the ``model`` section of a config, which is left as it is.
    Returns:
        the registered name, or None; and a line for the log: what is used, or why not.
    """
    head = model.get("bbox_head")
    name = str(head.get("type", "")).removeprefix("mmdet.") if isinstance(head, dict) else ""
    name = {level: stock for stock, level in LEVEL.items()}.get(name, name)
    static = name if name in STOCK else STATIC.get(name)
    if static is None:
        return None, f"{name or model.get('type', 'the model')} has no fixed-shape form"
    config = ConfigDict(copy.deepcopy(dict(head)), type=static, init_cfg=None)
    config.update(train_cfg=model.get("train_cfg"), test_cfg=model.get("test_cfg"))
    try:
        with torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope("mmdet"):
            MODELS.build(config)  # its constructor knows what it covers
    except UserError as error:
        return None, str(error)
    return static, f"{name.removeprefix('Static').removesuffix('Head')} head"
