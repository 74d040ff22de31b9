"""Data sets: COCO and VOC layouts, generated shapes, and the check before training."""

from .check import check, check_coco_files
from .layout import resolve
from .shapes import make_shapes
from .spec import DataReport, DataSpec, Split, SplitReport

__all__ = [
    "DataReport",
    "DataSpec",
    "Split",
    "SplitReport",
    "check",
    "check_coco_files",
    "make_shapes",
    "resolve",
]
