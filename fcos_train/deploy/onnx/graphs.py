"""Builds the graph of a model: its detector and its head are looked up in two tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fcos_train.deploy.onnx import two_stage
from fcos_train.deploy.onnx.heads import HEADS, reader_of
from fcos_train.deploy.onnx.single_stage import SingleStage
from fcos_train.deploy.onnx.spec import ExportGraph, GraphSpec
from mmcv_overrides.errors import UserError

# Detector class (or one of its bases) -> builder. A single-stage detector needs no entry: its head must be in HEADS.
DETECTORS: dict[str, Callable[[Any, GraphSpec], ExportGraph]] = {
    "CascadeRCNN": two_stage.build,
    "FasterRCNN": two_stage.build,
}


def predicts_masks(model: Any) -> bool:
    """Whether an mmdet detector returns a mask for each box."""
    roi_head = getattr(model, "roi_head", None)
    owners = (model, roi_head, getattr(model, "bbox_head", None))
    return any(getattr(owner, "mask_head", None) is not None for owner in owners)


def build_graph(model: Any, spec: GraphSpec) -> ExportGraph:
    """Build the graph of an mmdet detector with the requested end, in evaluation mode.

    Raises:
        UserError: this detector or head cannot be exported, or not with this end.
    """
    names = [base.__name__ for base in type(model).__mro__]
    if predicts_masks(model):
        raise UserError(
            f"{type(model).__name__} cannot be exported: it predicts masks, and the exported graphs return boxes only. "
            "Train a config without a mask head for deployment, such as faster_rcnn or cascade_rcnn"
        )
    for name in names:
        if name in DETECTORS:
            return DETECTORS[name](model, spec).eval()
    reader = reader_of(getattr(model, "bbox_head", None)) if "SingleStageDetector" in names else None
    if reader is None:
        head = getattr(model, "bbox_head", None)
        what = type(model).__name__ + (f" (head {type(head).__name__})" if head is not None else "")
        raise UserError(
            f"{what} cannot be exported; single-stage detectors with {', '.join(HEADS)} or a head derived from one of "
            f"them can, and two-stage detectors derived from {' or '.join(DETECTORS)}"
        )
    return SingleStage(model, reader, spec).eval()
