"""Accepts an export of weights that are not trained, on request (``--allow-untrained``).

Random weights give hundreds of nearly equal scores and boxes, and rounding decides which of them the suppression keeps.
Such a file is enough to measure speed. Instead of the detections, the maps in front of the suppression are compared:
the same model is written with the end ``raw``, whose outputs must be within the usual tolerances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fcos_train.deploy.onnx.compare import Difference
from fcos_train.deploy.onnx.graphs import build_graph
from fcos_train.deploy.onnx.spec import ExportGraph
from fcos_train.deploy.onnx.verify import verify
from fcos_train.deploy.onnx.writing import write
from mmcv_overrides.errors import UserError

LEAST_SHARED = 0.5  # of the detections; fewer are no matter of ties


def faults_beside_ties(
    graph: ExportGraph,
    opset: int,
    images: Sequence[np.ndarray],
    differences: Sequence[Difference],
    say: Callable[[str], None],
    report: Callable[[Sequence[Difference]], None],
) -> str | None:
    """What is wrong with a file beside detections at ties; None if nothing is.

    Args:
        differences: of the file's own outputs, the detections among them out of tolerance.
        say, report: print a line, and one line for each difference.
    """
    dets = next((found for found in differences if found.apart), None)
    if dets is None:
        return "the difference is not one of detections"
    total = dets.count + dets.apart
    counted = f"{dets.apart} of {total} detections differ"
    if dets.count < LEAST_SHARED * total:
        return f"{counted}, more than ties explain"
    try:
        maps = build_graph(graph.model, replace(graph.spec, end="raw"))
    except UserError:  # a two-stage graph has no maps
        return f"{counted}, {dets.unexplained} of them not by a tie" if dets.unexplained else None
    lowest, highest = max(maps.min_opset, graph.min_opset), min(maps.max_opset, graph.max_opset)
    say(f"--allow-untrained: {counted}, as weights that are not trained have ties; the maps in front of them instead:")
    found, _, _ = verify(maps, write(maps, min(max(opset, lowest), highest)), images)
    report(found)
    return next((f"{one.name}: {one.fault}" for one in found if one.fault), None)
