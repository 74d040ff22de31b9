"""Data sets: COCO, VOC and YOLO layouts, generated shapes, and the check before training."""

from fcos_train.data.check import check, check_coco_files
from fcos_train.data.layout import resolve
from fcos_train.data.shapes import make_shapes
from fcos_train.data.spec import DataReport, DataSpec, Split, SplitReport

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
