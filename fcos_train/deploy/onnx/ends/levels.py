"""Raw maps in the form of two published pipelines: AdelaiDet's ONNX export, and the D-Robotics RDK boards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fcos_train.deploy.onnx.ends.base import Maps
from fcos_train.deploy.onnx.ends.standard import Raw
from fcos_train.deploy.onnx.spec import Output

if TYPE_CHECKING:
    from fcos_train.deploy.onnx.single_stage import SingleStage

NAMES = {"cls": "logits", "box": "bbox_reg", "ctr": "centerness"}


class AdelaiDet(Raw):
    """Maps [1, K, H_l, W_l] named as by AdelaiDet: P3logits.., P3bbox_reg.., P3centerness.., of an input `input_image`.

    The number is log2 of the stride. Distances are in strides instead of px.
    """

    input_name = "input_image"
    fixed_size = True
    in_strides = True

    def outputs(self, graph: SingleStage) -> tuple[Output, ...]:
        """One output per part and level, part by part."""
        return tuple(
            Output(self.output_name(output), output.kind, output.axes, {**output.info, **self.layout})
            for output in super().outputs(graph)
        )

    layout: dict[str, str] = {}

    def output_name(self, output: Output) -> str:
        """Name of a map."""
        return f"P{int(output.info['stride']).bit_length() - 1}{NAMES[output.info['part']]}"


class Rdk(AdelaiDet):
    """The maps of :class:`AdelaiDet` as [1, H_l, W_l, K], opset 11, as the compiler of the RDK boards expects them."""

    default_opset = 11
    layout = {"layout": "NHWC"}

    def finish(self, graph: SingleStage, images: Tensor, maps: Maps) -> tuple[Tensor, ...]:
        """The maps with the channels last."""
        return tuple(level.permute(0, 2, 3, 1) for level in super().finish(graph, images, maps))
