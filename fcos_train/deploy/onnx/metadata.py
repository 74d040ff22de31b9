"""Writes the description of an export, into the ONNX file and beside it as JSON; read by ``deploy.parts``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from onnx import ModelProto

from fcos_train.config.load import test_pipeline
from fcos_train.deploy.onnx.spec import AXES, ExportGraph, normalisation
from fcos_train.deploy.onnx.writing import custom_operators

FORMAT = 1


def describe(
    graph: ExportGraph, model: ModelProto, detector: Any, config: Config, classes: Sequence[str]
) -> dict[str, Any]:
    """Compose the description: what a consumer of the file must know.

    Args:
        graph, model: what was exported, and the result.
        detector: the mmdet model. config: its whole configuration. classes: names by label.
    """
    mean, std, flip = normalisation(detector)
    spec, rules = graph.spec, graph.selection
    shape: list[int | str] = [spec.batch, 3, *spec.shape]
    for axis, index in zip(AXES, (0, 2, 3), strict=True):
        if axis in spec.dynamic:
            shape[index] = axis
    head = getattr(detector, "bbox_head", None)
    return {
        "format": FORMAT,
        "model": type(detector).__name__,
        "head": type(head).__name__ if head is not None else None,
        "end": spec.end,
        "classes": list(classes),
        "num_classes": int(getattr(head, "num_classes", None) or len(classes)),
        "input": {
            "name": graph.end.input_name,
            "dtype": "float32",
            "shape": shape,
            "layout": "NCHW",
            "color_order": "BGR" if spec.normalize or not flip else "RGB",
            "normalize_in_graph": spec.normalize,
            "example_shape": list(spec.shape),
        },
        "mean": mean,
        "std": std,
        "bgr_to_rgb": flip,
        "resize": resize_rule(detector, config),
        "strides": graph.decode.get("strides"),
        "outputs": [
            {
                "name": output.name,
                "kind": output.kind,
                "shape": [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
                **output.info,
            }
            for output, value in zip(graph.outputs, model.graph.output, strict=True)
        ],
        "test_cfg": {
            "score_thr": rules.score_thr,
            "nms_pre": rules.nms_pre or -1,
            "iou_threshold": rules.iou_threshold,
            "max_per_img": rules.max_per_img,
            "min_bbox_size": rules.min_bbox_size,
            "class_agnostic": rules.class_agnostic,
        },
        "decode": graph.decode,
        "opset": model.opset_import[0].version,
        "custom_operators": sorted(custom_operators(model)),
    }


def resize_rule(detector: Any, config: Config) -> dict[str, Any]:
    """How evaluation resizes an image: the Resize step of the test pipeline and the padding of the preprocessor.

    Returns:
        scale (width, height) px or None, keep_ratio, pad_size_divisor, pad_value, pad_position.
    """
    steps = test_pipeline(config) or []
    resize = next((step for step in steps if str(step.get("type", "")).endswith("Resize")), {})
    scale = resize.get("scale")
    processor = getattr(detector, "data_preprocessor", None)
    return {
        "scale": [int(side) for side in scale] if isinstance(scale, (list, tuple)) else None,
        "keep_ratio": bool(resize.get("keep_ratio", False)),
        "pad_size_divisor": int(getattr(processor, "pad_size_divisor", 1)),
        "pad_value": float(getattr(processor, "pad_value", 0) or 0),
        "pad_position": "right and below, after the normalisation",
    }


def embed(model: ModelProto, content: dict[str, Any]) -> None:
    """Store every entry of the description as a metadata property of the file; values other than text as JSON."""
    del model.metadata_props[:]
    for key in sorted(content):
        value = content[key]
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def as_json(content: dict[str, Any]) -> str:
    """The description as the text of its file."""
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
