"""Which opset a graph is written in, and why."""

from __future__ import annotations

from fcos_train.deploy.onnx.deform_conv import FIRST_WITH_OPERATOR
from fcos_train.deploy.onnx.spec import DEFAULT_OPSET, ExportGraph


def choose(graph: ExportGraph, asked: int | None = None, usual: int | None = None) -> tuple[int, str]:
    """The opset and the reason, to be printed.

    Args:
        asked: by the user; taken as it is (``write`` refuses what the graph cannot have).
        usual: instead of :data:`.spec.DEFAULT_OPSET`.
    """
    deformable = graph.spec.end != "ascend" and deformable_convolutions(graph)
    if asked is not None:
        if deformable and asked < FIRST_WITH_OPERATOR:
            return (
                asked,
                f"as asked; deformable convolution in older operators, DeformConv begins at {FIRST_WITH_OPERATOR}",
            )
        return asked, "as asked"
    found = DEFAULT_OPSET[graph.spec.end] if usual is None else usual
    if deformable and found < FIRST_WITH_OPERATOR:
        return FIRST_WITH_OPERATOR, f"for DeformConv, of {deformable} deformable convolutions"
    if found < graph.min_opset:
        return graph.min_opset, "the least this graph needs"
    return found, "the default"


def deformable_convolutions(graph: ExportGraph) -> int:
    """How many the model has."""
    from mmcv.ops import DeformConv2d, ModulatedDeformConv2d  # not before the overrides are in place

    return sum(isinstance(module, (DeformConv2d, ModulatedDeformConv2d)) for module in graph.model.modules())
