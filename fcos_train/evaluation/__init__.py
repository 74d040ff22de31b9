"""Metrics on detections: COCO average precision and recall, per class, logged and kept as JSON."""

from .coco import FastCocoMetric
from .report import write_metrics

__all__ = ["FastCocoMetric", "write_metrics"]
