"""Writes models of less precision: weights stored as fp16, or convolutions in int8.

int8 means weights and inputs of convolutions as int8, with scales from calibration images. ncnn's own tools for it
(ncnn2table, ncnn2int8) are not in its Python package. The layout is that of ncnn's int8 inference: a convolution with
``8=2`` has int8 weights, the float32 bias, a scale per output channel and one of its input; a grouped one with ``8=1``
has a scale per group. A number is stored as ``round(number * scale)``, within -127 to 127, and all scales are
``127 / largest absolute value``. The input has one scale for all channels: a convolution of which the channels differ
too much in range for that, as behind the first blocks of an EfficientNet, stays float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fcos_train.deploy.ncnn.graph import Graph, Layer
from fcos_train.deploy.ncnn.session import Network
from fcos_train.deploy.ncnn.weights import ARRAYS, float16_array, float32_values, int8_array, stored, unknown_kinds
from fcos_train.deploy.parts.rounding import relative_noise
from mmcv_overrides.errors import UserError

TERMS = {"Convolution": "2", "ConvolutionDepthWise": "1"}  # kind -> value of parameter 8
LARGEST = 127
PNNX = "the .bin file of pnnx"
# Rounding to 11 bits changes an array by 2e-4 of its norm; more means numbers below the normal range of fp16.
ROUNDING = 4e-4
# Largest accepted noise of int8 inputs, relative to the inputs. EfficientNet-B0 on BCCD (195 convolutions) lost 0.065
# mAP with all of them in int8; ResNet-18 has none above it.
NOISE = 0.05


class Range(NamedTuple):
    """What calibration knows of a blob.

    Attributes:
        reach: largest absolute value. power: mean square of each channel.
    """

    reach: float
    power: np.ndarray


def halved(graph: Graph, data: bytes) -> tuple[bytes, list[str]]:
    """Store weights as fp16, except arrays whose numbers fp16 cannot represent: they stay float32.

    Args:
        graph, data: a network in float32 and its weights.

    Returns:
        the new weights, and the names of layers that stay float32.

    Raises:
        UserError: layers of which the weights are not known, or weights that are not float32.
    """
    _require_known(graph, "fp16")
    content, kept = bytearray(), []
    for layer, places in stored(graph, data, PNNX):
        marks = [array.marked for array in ARRAYS[layer.kind](layer)] if places else []
        for place, marked in zip(places, marks, strict=True):
            array = data[place]
            if marked:
                values = _values(layer, array)
                if _fits_half(values):
                    array = float16_array(values)
                else:
                    kept.append(layer.name)
            content += array
    return bytes(content), kept


def _fits_half(values: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        error = np.linalg.norm(values.astype(np.float16).astype(np.float64) - values)
    return bool(error <= ROUNDING * np.linalg.norm(values.astype(np.float64)))


def _values(layer: Layer, array: bytes) -> np.ndarray:
    try:
        return float32_values(array)
    except ValueError as error:
        raise UserError(f"layer {layer.name}: {error}") from None


def _require_known(graph: Graph, precision: str) -> None:
    unknown = unknown_kinds(graph)
    if unknown:
        raise UserError(f"{precision} is not available for a network with the layers {', '.join(unknown)}")


def calibrated(network: Network, images: Sequence[np.ndarray]) -> dict[str, Range]:
    """Ranges of the inputs of all convolutions, over the images.

    Args:
        network: in single precision, opened with ``keep=True``.
        images: prepared inputs f32 [3, H, W].

    Returns:
        name of the blob -> its range.

    Raises:
        UserError: no image, or a value that is not finite.
    """
    names = sorted({layer.bottoms[0] for layer in network.graph.layers if layer.kind in TERMS})
    reach, power = dict.fromkeys(names, 0.0), dict.fromkeys(names, np.zeros(1))
    for image in images:
        for name, blob in zip(names, network.blobs(image, names)):
            reach[name] = max(reach[name], float(np.abs(blob).max(initial=0.0)))
            power[name] = power[name] + (blob.astype(np.float64) ** 2).mean((1, 2)) / len(images)
    broken = [name for name in names if not np.isfinite(power[name]).all()]
    if broken or not images:
        raise UserError(
            f"int8: blob {broken[0]} has values that are not finite" if broken else "int8: no image to calibrate with"
        )
    return {name: Range(reach[name], power[name]) for name in names}


def noise(layer: Layer, inputs: Range) -> float:
    """:func:`relative_noise` of the input of a convolution."""
    return relative_noise(inputs.reach / LARGEST, inputs.power, layer.kind == "ConvolutionDepthWise")


def quantized(
    graph: Graph, data: bytes, ranges: Mapping[str, Range], limit: float = NOISE
) -> tuple[Graph, bytes, list[str]]:
    """Quantise the convolutions.

    Args:
        graph, data: a network in float32 and its weights.
        ranges: of :func:`calibrated`.
        limit: a convolution with more :func:`noise` stays float32.

    Returns:
        the new graph and weights, and the names of the convolutions that stay float32.

    Raises:
        UserError: layers of which the weights are not known, or weights that are not float32.
    """
    _require_known(graph, "int8")
    layers, content, kept = [], bytearray(), []
    for layer, places in stored(graph, data, PNNX):
        arrays = [data[place] for place in places]
        if layer.kind in TERMS and arrays:
            inputs = ranges[layer.bottoms[0]]
            if noise(layer, inputs) > limit:
                kept.append(layer.name)
            else:
                layer, arrays = _int8(layer, arrays, inputs.reach)
        layers.append(layer)
        content += b"".join(arrays)
    return Graph(tuple(layers)), bytes(content), kept


def _int8(layer: Layer, arrays: list[bytes], reach: float) -> tuple[Layer, list[bytes]]:
    """A convolution of the same name with int8 weights and its scales."""
    groups = layer.count(7, 1) if layer.kind == "ConvolutionDepthWise" else layer.count(0)
    rows = _values(layer, arrays[0]).reshape(groups, -1)
    scales = scale_of(np.abs(rows).max(1))
    numbers = np.clip(np.rint(rows * scales[:, None]), -LARGEST, LARGEST)
    both = np.append(scales, scale_of(np.array([reach], np.float32))).astype("<f4")
    marked = replace(layer, settings={**layer.settings, 8: TERMS[layer.kind]})
    return marked, [int8_array(numbers), *arrays[1:], both.tobytes()]


def scale_of(largest: np.ndarray) -> np.ndarray:
    """Scale f32 for values up to ``largest``; 1 where all are 0."""
    return np.where(largest > 0, LARGEST / np.maximum(largest, np.float32(1e-30)), 1).astype(np.float32)
