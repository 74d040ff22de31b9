"""How each operator of ONNX becomes layers of caffe that BVLC caffe and OpenCV compute alike.

A new operator needs one function and an entry in :data:`OPERATORS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcos_train.deploy.caffe.network import Blob, Network, Pair

Value = Blob | np.ndarray | None
MULTIPLES = "give --shape sides that are multiples of 32 (128 with BiFPN)"


class Unsupported(Exception):
    """A node that caffe has no layer for; the message says why, with the cure where there is one."""


@dataclass(frozen=True)
class Node:
    """One node of the ONNX graph.

    Attributes:
        kind: the operator. name: of its result in the network.
        inputs: blobs, constants, and None for those that are left out.
        attributes: by name. shape: of the result.
    """

    kind: str
    name: str
    inputs: tuple[Value, ...]
    attributes: Mapping[str, Any]
    shape: tuple[int, ...]

    def blob(self, index: int = 0) -> Blob:
        """An input that must be a blob of the network."""
        value = self.inputs[index]
        if not isinstance(value, Blob):
            raise Unsupported(f"its input {index} is a constant")
        return value

    def constant(self, index: int) -> np.ndarray | None:
        """An input that must be a constant, or None if it is left out."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(value, Blob):
            raise Unsupported(f"its input {index} is not a constant")
        return value

    def require(self, **wanted: Any) -> None:
        """Refuse an attribute that is given with another value."""
        for name, value in wanted.items():
            found = self.attributes.get(name, value)
            if found != value:
                raise Unsupported(f"{name}={found}")


def convolution(net: Network, node: Node) -> str:
    """Conv of two dimensions."""
    weight = node.constant(1)
    if weight is None or weight.ndim != 4:
        raise Unsupported("only convolutions of two dimensions")
    node.require(auto_pad="NOTSET")
    at = node.attributes
    strides, dilations = _pair(at.get("strides", (1, 1))), _pair(at.get("dilations", (1, 1)))
    return net.convolution(
        node.name,
        node.blob(),
        weight,
        node.constant(2),
        stride=strides,
        pad=_padding(node),
        dilation=dilations,
        group=at.get("group", 1),
    )


def pooling(net: Network, node: Node) -> str:
    """MaxPool and AveragePool."""
    at = node.attributes
    node.require(auto_pad="NOTSET", dilations=[1, 1], storage_order=0)
    bottom, method = node.blob(), "MAX" if node.kind == "MaxPool" else "AVE"
    kernel, stride, pad = _pair(at["kernel_shape"]), _pair(at.get("strides", (1, 1))), _padding(node)
    if method == "AVE" and any(pad):
        raise Unsupported("an average of padded values")
    exact = all((s + 2 * p - k) % step == 0 for s, p, k, step in zip(bottom.shape[2:], pad, kernel, stride))
    write = net.pooling if exact or at.get("ceil_mode") else net.pooling_rounded_down
    return write(node.name, bottom, method, kernel, stride, pad)


def resize(net: Network, node: Node) -> str:
    """Resize to a multiple of the size by the nearest value."""
    bottom, at = node.blob(), node.attributes
    mode, rule = at.get("mode", "nearest"), at.get("coordinate_transformation_mode", "half_pixel")
    if mode != "nearest" or rule == "align_corners":
        raise Unsupported(f"{mode}, {rule}; only the nearest value: upsample_cfg=dict(mode='nearest') in the neck")
    old, new = bottom.shape[2:], node.shape[2:]
    if any(after % before for before, after in zip(old, new, strict=True)):
        raise Unsupported(f"from {old[0]} x {old[1]} to {new[0]} x {new[1]}, which is no whole multiple: {MULTIPLES}")
    return net.upsample(node.name, bottom, (new[0] // old[0], new[1] // old[1]))


def clip(net: Network, node: Node) -> str:
    """Clip from 0, with or without an upper bound (ReLU6)."""
    low, high = (float("nan") if bound is None else float(bound) for bound in (node.constant(1), node.constant(2)))
    if low != 0:
        raise Unsupported(f"from {low:g}; only from 0")
    if not high < np.finfo(np.float32).max:
        return net.add("ReLU", node.name, [node.blob()])
    # min(y, high) = high - max(high - y, 0); caffe itself has no layer with an upper bound.
    below = net.add("ReLU", f"{node.name}/from_zero", [node.blob()])
    rest = net.power(f"{node.name}/to_bound", Blob(below, node.shape), -1.0, high)
    cut = net.add("ReLU", f"{node.name}/cut", [Blob(rest, node.shape)])
    return net.power(node.name, Blob(cut, node.shape), -1.0, high)


def leaky_relu(net: Network, node: Node) -> str:
    """LeakyRelu: ReLU with a slope."""
    slope = node.attributes.get("alpha", 0.01)
    return net.add("ReLU", node.name, [node.blob()], (), {"relu_param": {"negative_slope": slope}})


def batch_norm(net: Network, node: Node) -> str:
    """BatchNormalization that is not part of a convolution: a factor and a shift per channel."""
    values = [node.constant(index) for index in range(1, 5)]
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
    factor = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    return net.scale(node.name, node.blob(), factor, beta - mean * factor)


def arithmetic(net: Network, node: Node) -> str:
    """Add, Sub, Mul and Div of two blobs, or of a blob and one number per channel."""
    first, second = node.inputs
    if isinstance(first, Blob) and isinstance(second, Blob):
        return _of_blobs(net, node, first, second)
    blob, constant = (first, second) if isinstance(first, Blob) else (second, first)
    if not isinstance(blob, Blob) or not isinstance(constant, np.ndarray):
        raise Unsupported("two constants")
    if not isinstance(first, Blob) and node.kind in ("Sub", "Div"):
        raise Unsupported("a constant as its first input")
    value = _per_channel(constant, blob)
    if node.kind in ("Mul", "Div"):
        return net.scale(node.name, blob, value if node.kind == "Mul" else 1 / value)
    return net.scale(node.name, blob, np.ones_like(value), value if node.kind == "Add" else -value)


def _of_blobs(net: Network, node: Node, first: Blob, second: Blob) -> str:
    if node.kind == "Div":
        raise Unsupported("a division of blobs")
    if first.shape != second.shape:
        raise Unsupported(f"of blobs of the shapes {first.shape} and {second.shape}")
    if node.kind == "Mul":
        return net.eltwise(node.name, (first, second), "PROD")
    return net.eltwise(node.name, (first, second), "SUM", (1.0, -1.0) if node.kind == "Sub" else ())


def concat(net: Network, node: Node) -> str:
    """Concat along the channels."""
    bottoms = [node.blob(index) for index in range(len(node.inputs))]
    axis = node.attributes["axis"]
    return net.add("Concat", node.name, bottoms, (), {"concat_param": {"axis": axis % len(node.shape)}})


def same_type(kind: str) -> Callable[[Network, Node], str]:
    """An operator that is a layer without parameters."""

    def write(net: Network, node: Node) -> str:
        return net.add(kind, node.name, [node.blob()])

    return write


def _pair(values: Any) -> Pair:
    height, width = values
    return int(height), int(width)


def _padding(node: Node) -> Pair:
    """Padding of both sides of each axis, which must be the same."""
    top, left, bottom, right = node.attributes.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right):
        raise Unsupported(f"padding {top} above and {bottom} below, {left} left and {right} right")
    return int(top), int(left)


def _per_channel(constant: np.ndarray, blob: Blob) -> np.ndarray:
    """A constant [], [C, 1, 1] or [1, C, 1, 1] as [C]."""
    channels = blob.shape[1]
    if constant.size == 1:
        return np.full(channels, constant.reshape(()), np.float64)
    if tuple(np.broadcast_shapes(constant.shape, (1, 1, 1, 1))) != (1, channels, 1, 1):
        raise Unsupported(f"a constant of the shape {constant.shape}")
    return constant.reshape(channels).astype(np.float64)


OPERATORS: dict[str, Callable[[Network, Node], str]] = {
    "Add": arithmetic,
    "AveragePool": pooling,
    "BatchNormalization": batch_norm,
    "Clip": clip,
    "Concat": concat,
    "Conv": convolution,
    "Div": arithmetic,
    "Exp": same_type("Exp"),
    "LeakyRelu": leaky_relu,
    "MaxPool": pooling,
    "Mul": arithmetic,
    "Relu": same_type("ReLU"),
    "Resize": resize,
    "Sigmoid": same_type("Sigmoid"),
    "Sub": arithmetic,
    "Tanh": same_type("TanH"),
}
# Operators that pass their input on.
TRANSPARENT = ("Cast", "Dropout", "Identity")
BN_HEAD = (
    "train the BN head, configs/fcos/fcos_r50_caffe_fpn_bn-head_4x4_1x_coco.py (norm_cfg=dict(type='BN') in bbox_head)"
)
BATCH_NORM = "train a backbone with BatchNorm, such as ResNet"
NO_DCN = "train without deformable convolutions (backbone.dcn=None)"
# Operators without a counterpart of which the cause in the model is known, with the cure.
CURES = {
    "DeformConv": NO_DCN,
    "GlobalAveragePool": "train a backbone without squeeze-and-excitation",
    "GroupNormalization": BN_HEAD,
    "InstanceNormalization": BN_HEAD,
    "LayerNormalization": BATCH_NORM,
    "Shape": f"a map is enlarged by a factor that is not whole: {MULTIPLES}",
}
