"""Metrics on detections: COCO average precision and recall, per class, logged and kept as JSON."""

from fcos_train.evaluation.coco import FastCocoMetric
from fcos_train.evaluation.report import write_metrics

__all__ = ["FastCocoMetric", "write_metrics"]
