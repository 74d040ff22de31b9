"""Heads with losses of fixed shape, registered in mmdet's ``MODELS`` (call ``mmcv_overrides.activate()`` first)."""

from .fcos_head import StaticFCOSHead
from .fsaf_head import StaticFSAFHead

__all__ = ["StaticFCOSHead", "StaticFSAFHead"]
