"""Heads with losses of fixed shape, registered in mmdet's ``MODELS`` (call ``mmcv_overrides.activate()`` first)."""

from .coverage import STATIC, STOCK, static_head_of
from .fcos_head import StaticFCOSHead
from .fsaf_head import StaticFSAFHead
from .padded_batch import FixedShapePreprocessor

__all__ = ["FixedShapePreprocessor", "STATIC", "STOCK", "StaticFCOSHead", "StaticFSAFHead", "static_head_of"]
