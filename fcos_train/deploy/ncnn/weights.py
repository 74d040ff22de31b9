"""The weight file of ncnn (`.bin`): the arrays of all layers one after another, without names.

Which arrays a layer has follows from its line in the graph. Two kinds exist: plain ones (float32), and marked ones,
which begin with four bytes that say how the numbers are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fcos_train.deploy.ncnn.graph import Graph, Layer
from mmcv_overrides.errors import UserError

FLOAT32, FLOAT16, INT8, FLOAT32_SCALED = 0, 0x01306B47, 0x000D4B38, 0x0002C056
# fmt: off
WITHOUT_WEIGHTS = frozenset((
    "Input", "Split", "BinaryOp", "UnaryOp", "ReLU", "Interp", "Pooling", "Concat", "Permute", "Reshape", "Crop",
    "Sigmoid", "Swish", "HardSwish", "HardSigmoid", "Clip", "Eltwise", "Softmax", "Slice", "Dropout", "Noop", "Flatten",
    "Mish", "TanH", "ELU", "SELU", "GELU", "AbsVal", "Exp", "Log", "Power", "Threshold", "ShuffleChannel",
    "PixelShuffle", "Squeeze", "ExpandDims", "Reduction", "Cast", "Packing",
))
# fmt: on


class Array(NamedTuple):
    """How many numbers an array has, and whether it is marked."""

    numbers: int
    marked: bool = False


def _convolution(layer: Layer) -> list[Array]:
    """Weights, bias, and for int8 a scale per output channel and one of the input."""
    outputs = layer.count(0)
    return [*_weights_and_bias(layer, 6, 5), *_scales(layer, outputs)]


def _depthwise(layer: Layer) -> list[Array]:
    """The same with a scale per group, or one for all groups (8=2)."""
    groups = 1 if layer.count(8) % 100 == 2 else layer.count(7, 1)
    return [*_weights_and_bias(layer, 6, 5), *_scales(layer, groups)]


def _plain(layer: Layer) -> list[Array]:
    return _weights_and_bias(layer, 6, 5)


def _inner_product(layer: Layer) -> list[Array]:
    return [*_weights_and_bias(layer, 2, 1), *_scales(layer, layer.count(0))]


def _weights_and_bias(layer: Layer, size: int, bias: int) -> list[Array]:
    if len(layer.bottoms) > 1 and layer.kind != "DeformableConv2D":
        return []  # the weights are computed by other layers
    return [Array(layer.count(size), marked=True), *([Array(layer.count(0))] if layer.count(bias) else [])]


def _scales(layer: Layer, weights: int) -> list[Array]:
    term = layer.count(8)
    return [Array(count) for count in (weights, 1, 1)[: 3 if term > 100 else 2]] if term else []


def _affine(channels: int, switch: int, default: int) -> Callable[[Layer], list[Array]]:
    """A factor and an offset per channel, unless they are switched off."""
    return lambda layer: [Array(layer.count(channels))] * 2 if layer.count(switch, default) else []


def _scale(layer: Layer) -> list[Array]:
    size = layer.count(0)
    return [] if size == -233 else [Array(size)] * (2 if layer.count(1) else 1)


def _memory(layer: Layer) -> list[Array]:
    sides = [layer.count(key) for key in (0, 1, 11, 2)]
    return [Array(int(np.prod([side for side in sides if side])), marked=layer.count(21, 1) == 0)]


ARRAYS: dict[str, Callable[[Layer], list[Array]]] = {
    "Convolution": _convolution,
    "ConvolutionDepthWise": _depthwise,
    "Deconvolution": _plain,
    "DeconvolutionDepthWise": _plain,
    "DeformableConv2D": _plain,
    "InnerProduct": _inner_product,
    "GroupNorm": _affine(1, 3, 1),
    "InstanceNorm": _affine(0, 2, 1),
    "LayerNorm": _affine(0, 2, 1),
    "BatchNorm": lambda layer: [Array(layer.count(0))] * 4,
    "Scale": _scale,
    "Bias": lambda layer: [Array(layer.count(0))],
    "PReLU": lambda layer: [Array(layer.count(0))],
    "Padding": lambda layer: [Array(layer.count(6))] if layer.count(6) else [],
    "MemoryData": _memory,
}


def unknown_kinds(graph: Graph) -> list[str]:
    """Kinds of layers of which this module does not know the arrays."""
    return sorted({layer.kind for layer in graph.layers} - set(ARRAYS) - WITHOUT_WEIGHTS)


def stored(graph: Graph, data: bytes, where: str) -> Iterator[tuple[Layer, list[slice]]]:
    """Find the arrays of each layer, the marks included. All kinds of layers must be known.

    Args:
        data: the weight file. where: its name, for messages.

    Raises:
        UserError: the file is too short or too long for the graph.
    """
    place = 0
    for layer in graph.layers:
        found = []
        for array in ARRAYS.get(layer.kind, _none)(layer):
            end = place + _size(array, data[place : place + 4])
            if array.numbers < 0 or end > len(data):
                raise UserError(
                    f"{where} is truncated, or belongs to another graph: {len(data)} bytes, but the weights of layer "
                    f"{layer.name} end at byte {end}"
                )
            found.append(slice(place, end))
            place = end
        yield layer, found
    if place != len(data):
        raise UserError(f"{where} belongs to another graph: it has {len(data)} bytes, the layers need {place}")


def _none(_: Layer) -> list[Array]:
    return []


def _size(array: Array, mark: bytes) -> int:
    """Bytes of an array."""
    if not array.marked:
        return 4 * array.numbers
    kind = int.from_bytes(mark, "little")
    if kind in (FLOAT32, FLOAT32_SCALED):
        return 4 + 4 * array.numbers
    table = 0 if kind in (FLOAT16, INT8) else 1024  # otherwise a table of 256 numbers, and indices
    return 4 + table + _aligned(array.numbers * (2 if kind == FLOAT16 else 1))


def _aligned(size: int) -> int:
    return -(-size // 4) * 4


def require_whole(graph: Graph, path: Path) -> None:
    """Refuse a weight file that does not have the size that the graph asks for.

    ncnn itself accepts a file that is too long, and reads scales beyond the end of one that is too short.

    Raises:
        UserError: no such file, or another size. Graphs with unknown kinds of layers are left to ncnn.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; it holds the weights of the .param file")
    if not unknown_kinds(graph):
        for _ in stored(graph, path.read_bytes(), str(path)):
            pass


def int8_array(values: np.ndarray) -> bytes:
    """A marked array of int8 numbers, padded to four bytes."""
    content = values.astype(np.int8).tobytes()
    return INT8.to_bytes(4, "little") + content.ljust(_aligned(len(content)), b"\0")


def float16_array(values: np.ndarray) -> bytes:
    """A marked array of numbers rounded to float16, padded to four bytes."""
    content = values.astype("<f2").tobytes()
    return FLOAT16.to_bytes(4, "little") + content.ljust(_aligned(len(content)), b"\0")


def float32_values(content: bytes) -> np.ndarray:
    """The numbers of a marked array of float32.

    Raises:
        ValueError: it is stored otherwise.
    """
    if int.from_bytes(content[:4], "little") != FLOAT32:
        raise ValueError("the weights are not stored as float32")
    return np.frombuffer(content[4:], "<f4")
