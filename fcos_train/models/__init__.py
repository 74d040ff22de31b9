"""Heads with losses of fixed shape, registered in mmdet's ``MODELS`` (call ``mmcv_overrides.activate()`` first)."""

import mmcv_overrides.auto  # noqa: F401  the overrides come before mmdet
from fcos_train.models.fcos_head import StaticFCOSHead
from fcos_train.models.fixed_shape_heads import STATIC, STOCK, static_head_of
from fcos_train.models.fsaf_head import StaticFSAFHead
from fcos_train.models.level_heads import describe_norms, use_level_norms
from fcos_train.models.preprocessor import FixedShapePreprocessor

__all__ = [
    "FixedShapePreprocessor",
    "STATIC",
    "STOCK",
    "StaticFCOSHead",
    "StaticFSAFHead",
    "describe_norms",
    "static_head_of",
    "use_level_norms",
]
