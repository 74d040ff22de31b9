"""What a graph is to be (:class:`GraphSpec`) and what a builder returns (:class:`ExportGraph`).

Shape symbols of this package: B images, N candidates of all levels, C classes, T detections of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcos_train.deploy.onnx.ends import ENDS, end_of
from fcos_train.deploy.onnx.options import AXES, SMALLEST_SIDE, axis_faults
from mmcv_overrides.errors import UserError

if TYPE_CHECKING:
    from fcos_train.deploy.onnx.ends.base import End


@dataclass(frozen=True)
class GraphSpec:
    """The graph that is asked for.

    Attributes:
        end: one of :data:`.ends.ENDS`.
        shape: (height, width) of the input in px; with dynamic axes the example size.
        batch: images of the (example) input.
        dynamic: which of :data:`AXES` are dynamic.
        normalize: the graph takes raw BGR pixels (0 to 255) and normalises them itself.
        output_names: names of (dets, labels), for ends that return detections.
        half: False: suppress in single precision where the end would do it in half precision, as its device does.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    end: str
    shape: tuple[int, int]
    batch: int = 1
    dynamic: frozenset[str] = frozenset()
    normalize: bool = False
    output_names: tuple[str, str] = ("dets", "labels")
    half: bool = True

    def __post_init__(self) -> None:
        faults = []
        if self.end not in ENDS:
            faults.append(f"--end {self.end}: choose from {', '.join(ENDS)}")
        faults += axis_faults(self.end, tuple(self.dynamic))
        if min(self.shape) < SMALLEST_SIDE:
            faults.append(f"--shape {self.shape[0]} {self.shape[1]}: must be at least {SMALLEST_SIDE} px")
        if self.batch < 1:
            faults.append(f"--batch {self.batch}: must be at least 1")
        if set(self.dynamic) - set(AXES):
            faults.append(f"--dynamic {' '.join(sorted(self.dynamic))}: choose from {', '.join(AXES)}")
        if faults:
            raise UserError("; ".join(faults))

    @property
    def dynamic_size(self) -> bool:
        """Whether height or width is dynamic."""
        return bool(self.dynamic & {"height", "width"})


@dataclass(frozen=True)
class Selection:
    """How detections are selected, from ``test_cfg`` of the model.

    Attributes:
        score_thr: class scores must exceed it, before they are multiplied by the centerness, as in mmdet 3.
        nms_pre: candidates kept of each level, or None for all.
        iou_threshold: of the suppression.
        max_per_img: T.
        min_bbox_size: both sides of a box must exceed it, in px; negative: no minimum.
        class_agnostic: boxes of different classes suppress each other.
    """

    score_thr: float
    nms_pre: int | None
    iou_threshold: float
    max_per_img: int
    min_bbox_size: float
    class_agnostic: bool = False

    @classmethod
    def of(cls, test_cfg: Any, end: str) -> Selection:
        """Read a ``test_cfg``.

        Args:
            end: one of :data:`.ends.ENDS`.

        Raises:
            UserError: a suppression other than plain NMS, where the end has it in the graph.
        """
        config = dict(test_cfg or {})
        nms: dict[str, Any] = dict(config.get("nms") or {"type": "nms", "iou_threshold": 0.5})
        if nms.get("type", "nms") not in ("nms", "NMS") and end_of(end).returns_detections:
            raise UserError(
                f"--end {end}: the graph holds plain NMS, but test_cfg.nms is of type {nms['type']!r}; "
                "export --end raw or decoded and suppress outside, or change it in the configuration"
            )
        nms_pre = int(config.get("nms_pre", -1))
        return cls(
            score_thr=float(config.get("score_thr", 0.0)),
            nms_pre=nms_pre if nms_pre > 0 else None,
            iou_threshold=float(nms.get("iou_threshold", nms.get("iou_thr", 0.5))),
            max_per_img=int(config.get("max_per_img", 100)) if int(config.get("max_per_img", 100)) > 0 else 100,
            min_bbox_size=float(config.get("min_bbox_size", -1)),
            class_agnostic=bool(nms.get("class_agnostic", False)),
        )


@dataclass(frozen=True)
class Output:
    """One output of a graph.

    Attributes:
        name: in the file.
        kind: how it is compared: ``map`` and ``boxes`` (rtol 1e-3, atol 1e-5), ``scores`` (the same, except where a
            class score lies on the threshold), ``dets`` ([B, T, 5]) or ``labels`` ([B, T], belongs to the ``dets``
            before it).
        axes: dynamic axes, in the form of torch.onnx: {0: "batch"}.
        info: written to the description: level, stride, content.
    """

    name: str
    kind: str
    axes: dict[int, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


class ExportGraph(nn.Module):
    """A model with one of the ends. Builders subclass it.

    ``forward(images [B, 3, H, W] f32)`` is traced and returns one tensor for each of ``outputs``.

    Attributes:
        model: the mmdet detector.
        spec, end, selection: what the graph was built for; ``selection`` may be replaced before tracing.
        outputs: in the order of ``forward``.
        decode: how a consumer turns the outputs into boxes; written to the description.
        min_opset, max_opset: range of opsets that have its operators.
    """

    model: Any  # mmdet has no type annotations
    end: End
    min_opset = 11
    max_opset = 20
    _mean: Tensor
    _std: Tensor

    def __init__(self, model: Any, spec: GraphSpec, selection: Selection) -> None:
        super().__init__()
        self.model, self.spec, self.selection = model, spec, selection
        self.end = end_of(spec.end)
        mean, std, self._flip = normalisation(model)
        self.register_buffer("_mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.outputs: tuple[Output, ...] = ()
        self.decode: dict[str, Any] = {}

    @property
    def half_precision(self) -> bool:
        """Whether the graph suppresses in half precision."""
        return self.end.half_precision and self.spec.half

    def reference(self, images: Tensor) -> tuple[Tensor, ...]:
        """PyTorch's result, computed independently of ``forward`` where possible; never traced."""
        return self(images)

    def mmdets(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Dets [B, T, 5] and labels [B, T] of mmdet's own prediction, for graphs that return detections."""
        raise NotImplementedError

    def prepared(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] as the backbone takes them: normalised here if the spec says so, else by the caller."""
        if not self.spec.normalize:
            return images
        return ((images.flip(1) if self._flip else images) - self._mean) / self._std

    def batch_axes(self) -> dict[int, str]:
        """The dynamic batch axis of an output, in the form of torch.onnx."""
        return {0: "batch"} if "batch" in self.spec.dynamic else {}

    def input_axes(self) -> dict[int, str]:
        """The dynamic axes of the input, in the form of torch.onnx."""
        return {index: axis for index, axis in ((0, "batch"), (2, "height"), (3, "width")) if axis in self.spec.dynamic}


def normalisation(model: Any) -> tuple[list[float], list[float], bool]:
    """Mean and std of each channel in the network's order, and whether BGR pixels are converted to RGB before."""
    processor = getattr(model, "data_preprocessor", None)
    flip = bool(getattr(processor, "_channel_conversion", False))
    if processor is None or not getattr(processor, "_enable_normalize", False):
        return [0.0] * 3, [1.0] * 3, flip
    # float32 -> the decimal number of the configuration
    mean, std = ([round(float(v), 5) for v in part.flatten()] for part in (processor.mean, processor.std))
    return mean, std, flip


def padded(found: Sequence[Any], total: int) -> tuple[Tensor, Tensor]:
    """mmdet's instances of each image -> dets [B, T, 5] and labels [B, T] with T = ``total``; unused rows are zero."""
    dets, labels = torch.zeros(len(found), total, 5), torch.zeros(len(found), total, dtype=torch.int64)
    for image, instances in enumerate(found):
        count = len(instances)
        dets[image, :count] = torch.cat((instances.bboxes, instances.scores[:, None]), 1)
        labels[image, :count] = instances.labels
    return dets, labels


def detection_outputs(spec: GraphSpec, axes: dict[int, str]) -> tuple[Output, Output]:
    """The pair (dets [B, T, 5] f32, labels [B, T] i64) of ends that return detections."""
    dets, labels = spec.output_names
    row = "x1 y1 x2 y2 score in px of the network input, best first; unused rows are zero"
    return Output(dets, "dets", axes, {"row": row}), Output(labels, "labels", axes)


@contextmanager
def require_size(spec: GraphSpec, hint: str) -> Iterator[None]:
    """Turn a failure of a network's first forward pass into a message about the input size.

    Args:
        hint: which sizes to try.

    Raises:
        UserError: the network does not accept the size.
    """
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"the network does not accept an input of {spec.shape[0]} x {spec.shape[1]} px ({error}); "
            f"try --shape with {hint}"
        ) from error
