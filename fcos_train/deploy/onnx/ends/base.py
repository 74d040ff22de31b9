"""What the exporter must know about a kind of graph end, and the operators that an end adds behind the heads.

Shape symbols: B images, N candidates of all levels, C classes, T detections of an image, P proposals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fcos_train.deploy.onnx import deform_conv
from fcos_train.deploy.onnx.spec import Output, detection_outputs

if TYPE_CHECKING:
    from fcos_train.deploy.onnx.single_stage import SingleStage
    from fcos_train.deploy.onnx.two_stage import TwoStage

Maps = tuple[list[Tensor], ...]  # (cls, box[, ctr]); each has one map [B, K, H_l, W_l] per level


class End(ABC):
    """A kind of graph end.

    Args:
        name: under which it is registered.

    Attributes:
        default_opset: written when the user asks for none and the model needs no other.
        deform_conv_opset: from this opset on, a deformable convolution is one operator.
        returns_detections: the graph contains the suppression and returns (dets, labels).
        fixed_size: height and width of the input must be fixed.
        half_precision: boxes and scores are suppressed in half precision, unless the spec says otherwise.
        selects_as_mmdet: candidates are selected exactly as in mmdet.
        input_name: of the graph.
        in_strides: maps of distances are in strides instead of px.
    """

    default_opset = 17
    deform_conv_opset = deform_conv.FIRST_WITH_OPERATOR
    returns_detections = False
    fixed_size = False
    half_precision = False
    selects_as_mmdet = True
    input_name = "input"
    in_strides = False

    def __init__(self, name: str) -> None:
        self.name = name

    def deform_conv(self, call: deform_conv.Call) -> Tensor:
        """Trace a deformable convolution."""
        return deform_conv.standard(call)

    @abstractmethod
    def outputs(self, graph: SingleStage) -> tuple[Output, ...]:
        """Outputs of a single-stage graph, in the order of :meth:`finish`."""

    @abstractmethod
    def finish(self, graph: SingleStage, images: Tensor, maps: Maps) -> tuple[Tensor, ...]:
        """Trace what follows the heads of a single-stage graph.

        Args:
            images: [B, 3, H, W], the input of the graph.
        """

    def reference(self, graph: SingleStage, images: Tensor) -> tuple[Tensor, ...]:
        """PyTorch's result for a single-stage graph, computed independently of the traced operators where possible."""
        return self.finish(graph, images, graph.maps(images, traced=False))


class DetectionEnd(End):
    """An end that returns (dets [B, T, 5], labels [B, T]). Two-stage detectors have these ends only.

    Attributes:
        two_stage_opset: minimum opset of a two-stage graph.
        max_proposals: upper bound of P, or None.
    """

    returns_detections = True
    two_stage_opset = 11
    max_proposals: int | None = None

    def outputs(self, graph: SingleStage) -> tuple[Output, ...]:
        """The pair (dets, labels)."""
        return detection_outputs(graph.spec, graph.batch_axes())

    def indices(self, order: Tensor) -> Tensor:
        """Indices i64 [n] of a TopK, in the type that the target uses."""
        return order

    @abstractmethod
    def propose(self, graph: TwoStage, levels: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Trace the suppression of the first stage.

        Args:
            levels: for each level boxes [n, 4] px and scores [n].

        Returns:
            proposals [P, 4] px, highest score first, and [P, 1] f32, 1 for real proposals and 0 for padding.
        """

    @abstractmethod
    def extract(self, extractor: Any, feats: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """Trace the pooling of features [P, C, h, w]; arguments as for :func:`.roi_ops.extract`."""

    @abstractmethod
    def select(self, graph: TwoStage, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Trace the suppression of the second stage.

        Args:
            boxes: [P, 4] or, with boxes for each class, [P, C, 4], in px. scores: [P, C].

        Returns:
            dets [1, T, 5] and labels [1, T].
        """

    def two_stage_reference(self, graph: TwoStage, images: Tensor) -> tuple[Tensor, ...]:
        """PyTorch's result for a two-stage graph."""
        return graph.mmdets(images)
