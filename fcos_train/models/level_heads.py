"""mmdet's heads with BatchNorm per level, for ``--step-mode mmdet``; and log lines about the norms of a model."""

from __future__ import annotations

from collections.abc import Iterator

from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import FCOSHead, FSAFHead, RetinaHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fcos_train.models.level_norm import HasLevelNorms, LevelNorm, level_norm_of


@MODELS.register_module()
class LevelFCOSHead(HasLevelNorms, FCOSHead):
    """FCOSHead with BatchNorm per level."""


@MODELS.register_module()
class LevelFSAFHead(HasLevelNorms, FSAFHead):
    """FSAFHead with BatchNorm per level."""


@MODELS.register_module()
class LevelRetinaHead(HasLevelNorms, RetinaHead):
    """RetinaHead with BatchNorm per level."""


LEVEL = {"FCOSHead": "LevelFCOSHead", "FSAFHead": "LevelFSAFHead", "RetinaHead": "LevelRetinaHead"}


def use_level_norms(model: ConfigDict | dict) -> list[str]:
    """Replace a head of mmdet that has BatchNorm by its form with one BatchNorm per level.

    Args:
        model: the ``model`` section of a config; the type of its ``bbox_head`` is changed in place.
    Returns:
        lines for the log.
    """
    head = model.get("bbox_head")
    if not isinstance(head, dict) or level_norm_of(head.get("norm_cfg")) is None:
        return []
    name = str(head.get("type", "")).removeprefix("mmdet.")
    if name not in LEVEL:
        return []
    head["type"] = LEVEL[name]
    return [f"{name} with BatchNorm: {LEVEL[name]} replaces it (statistics per level)"]


def describe_norms(model: nn.Module) -> tuple[list[str], list[str]]:
    """Log lines and warnings about BatchNorm in the dense heads of a built model."""
    lines: list[str] = []
    warnings: list[str] = []
    for name, head in model.named_modules():
        if not isinstance(head, BaseDenseHead):
            continue
        layers = list(_tower_norms(head))
        levels = [layer for layer in layers if isinstance(layer, LevelNorm)]
        if levels:
            affine = "one weight and bias for all levels" if levels[0].shared_affine else "weight and bias per level"
            kind = type(levels[0]).__name__
            lines.append(f"{name}: BatchNorm per level ({kind}, {len(levels[0])} levels, {affine})")
        if any(isinstance(layer, _BatchNorm) for layer in layers):
            warnings.append(
                f"{name}.norm_cfg: one BatchNorm layer is shared by all pyramid levels of {type(head).__name__}. Its "
                "running statistics mix the distributions of all levels, fit none of them, and evaluation can collapse "
                f"although the loss is low. {_instead(head)}"
            )
    return lines, warnings


def _tower_norms(head: nn.Module) -> Iterator[nn.Module]:
    """Norms of the towers that all levels share: layers of ``cls_convs``, ``reg_convs`` and other ``*_convs``."""
    for name, part in head.named_children():
        if name.endswith("_convs") and isinstance(part, nn.ModuleList):
            yield from (layer.norm for layer in part if isinstance(layer, ConvModule) and layer.with_norm)


def _instead(head: nn.Module) -> str:
    if isinstance(head, (FCOSHead, FSAFHead, RetinaHead)):
        return "norm_cfg=dict(type='BN') gives each level statistics of its own (docs/precision.md)"
    return "Use GroupNorm: norm_cfg=dict(type='GN', num_groups=32) (docs/precision.md)"
