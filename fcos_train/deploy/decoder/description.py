"""Reads from the description of an export (the JSON file beside a model) how its raw maps become boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .decoder import DecoderError, DecodeRule

_KEYS = ("kind", "offset", "means", "stds", "normalizer", "wh_ratio_clip", "sqrt", "threshold_on", "stride_units")


def decode_rule(description: Mapping[str, Any]) -> DecodeRule:
    """The rule for the raw maps of an export.

    Raises:
        DecoderError: scores other than sigmoid, which the decoder does not support, or an invalid description.
    """
    try:
        decode, select = description["decode"], description["test_cfg"]
        if decode.get("score", "sigmoid") != "sigmoid":
            raise DecoderError("raw maps with softmax scores cannot be decoded here; export with --end nms or decoded")
        values: dict[str, Any] = {key: decode[key] for key in _KEYS if key in decode}
        for key, value in values.items():
            values[key] = tuple(value) if isinstance(value, list) else value
        return DecodeRule(
            strides=tuple(int(stride[0] if isinstance(stride, list) else stride) for stride in decode["strides"]),
            anchors=tuple(np.asarray(level, np.float32) for level in decode.get("anchors", ())),
            score_thr=select["score_thr"],
            nms_pre=select["nms_pre"],
            iou_thr=select["iou_threshold"],
            class_agnostic=select["class_agnostic"],
            min_size=select["min_bbox_size"],
            max_per_img=select["max_per_img"],
            layout=next((entry["layout"] for entry in description["outputs"] if "layout" in entry), "NCHW"),
            **values,
        )
    except (KeyError, TypeError) as error:
        raise DecoderError(f"not the description of raw maps: {error!r}") from error


def raw_outputs(description: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, list[int]]:
    """Find the raw maps among the outputs of a model.

    Args:
        outputs: names of the outputs, in the order in which the runtime returns them.

    Returns:
        part (cls, box, ctr) -> indices of its maps, one per level.

    Raises:
        DecoderError: the model lacks an output of the description.
    """
    places: dict[str, list[int]] = {}
    for entry in sorted(description["outputs"], key=lambda entry: entry["level"]):
        if entry["name"] not in outputs:
            raise DecoderError(f"the model has no output {entry['name']}; it has {', '.join(outputs)}")
        places.setdefault(entry["part"], []).append(outputs.index(entry["name"]))
    return places
