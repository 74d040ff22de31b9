"""Which graph a model gets: :func:`build_graph` looks its detector and head up in two tables."""

from __future__ import annotations

import importlib
import importlib.util

from torch import nn

from fcos_train.deploy.onnx.heads import HEADS
from fcos_train.deploy.onnx.spec import ExportGraph, GraphSpec
from mmcv_overrides.errors import UserError

# Detector class (or one of its bases) -> "module:function" with (model, spec) -> ExportGraph.
# A detector that is not named here is taken as single-stage when its bbox_head has a reader in `heads.HEADS`.
DETECTORS: dict[str, str] = {
    "CascadeRCNN": "fcos_train.deploy.onnx.two_stage:build",
    "FasterRCNN": "fcos_train.deploy.onnx.two_stage:build",
}


def build_graph(model: nn.Module, spec: GraphSpec) -> ExportGraph:
    """The model with the end that ``spec`` asks for, in evaluation mode.

    Raises:
        UserError: no way is known to export this detector or head, or not with this end.
    """
    names = [base.__name__ for base in type(model).__mro__]
    way = next((DETECTORS[name] for name in names if name in DETECTORS), None)
    if way is not None and importlib.util.find_spec(way.partition(":")[0]) is not None:
        module, _, function = way.partition(":")
        return getattr(importlib.import_module(module), function)(model, spec).eval()
    from fcos_train.deploy.onnx.heads import reader_of
    from fcos_train.deploy.onnx.single_stage import SingleStage

    reader = reader_of(getattr(model, "bbox_head", None)) if "SingleStageDetector" in names else None
    if reader is None:
        head = type(getattr(model, "bbox_head", None)).__name__
        raise UserError(
            f"{type(model).__name__} (head {head}) cannot be exported; single-stage detectors with "
            f"{', '.join(HEADS)} or a head derived from one of them can"
        )
    return SingleStage(model, reader, spec).eval()
