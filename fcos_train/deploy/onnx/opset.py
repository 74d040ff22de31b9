"""Chooses the opset of a graph, and gives the reason."""

from __future__ import annotations

from fcos_train.deploy.onnx.spec import ExportGraph


def choose(graph: ExportGraph, asked: int | None = None, usual: int | None = None) -> tuple[int, str]:
    """Choose the opset of a graph.

    Args:
        asked: by the user; taken as it is (``write`` refuses an opset that the graph cannot have).
        usual: replaces the default opset of the graph's end.

    Returns:
        the opset and the reason, to be printed.
    """
    first, deformable = graph.end.deform_conv_opset, deformable_convolutions(graph)
    if asked is not None:
        if deformable and asked < first:
            return asked, f"as asked; deformable convolution in older operators, DeformConv begins at {first}"
        return asked, "as asked"
    found = graph.end.default_opset if usual is None else usual
    if deformable and found < first:
        return first, f"for DeformConv, of {deformable} deformable convolutions"
    if found < graph.min_opset:
        return graph.min_opset, "the least this graph needs"
    return found, "the default"


def deformable_convolutions(graph: ExportGraph) -> int:
    """Number of deformable convolutions of the model."""
    from mmcv.ops import DeformConv2d, ModulatedDeformConv2d  # after the overrides are active

    return sum(isinstance(module, (DeformConv2d, ModulatedDeformConv2d)) for module in graph.model.modules())
