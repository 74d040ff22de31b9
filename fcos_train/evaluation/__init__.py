"""Metrics on detections: COCO average precision and recall, per class, logged and kept as JSON."""

import mmcv_overrides.auto  # noqa: F401  the overrides come before mmdet
from fcos_train.evaluation.coco import FastCocoMetric
from fcos_train.evaluation.tables import write_metrics

__all__ = ["FastCocoMetric", "write_metrics"]
