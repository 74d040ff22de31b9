"""Rewrites a float ONNX model in int8 (pairs of QuantizeLinear and DequantizeLinear) or fp16.

Both are done by onnxruntime's own tools.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from fcos_train.deploy.parts.rounding import relative_noise
from fcos_train.progress import track
from mmcv_overrides.errors import UserError

PERCENTILE = 99.99  # of the values of an activation, that its range holds
# Largest accepted noise of 8-bit inputs of a convolution, relative to the inputs. EfficientNet-B0 on BCCD, with 14 of
# 195 convolutions above it, lost 0.064 mAP with all of them in 8 bits and 0.007 without these; ResNet-18 has none.
NOISE = 0.05
QDQ_OPSET = 13  # the first with one scale per channel
# TensorRT takes int8 around 0 only, biases in float, weights as float with a pair of their own.
FOR_TENSORRT = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
}


def to_int8(
    source: Path, target: Path, inputs: Sequence[np.ndarray], method: str = "minmax", symmetric: bool = False
) -> list[str]:
    """Write a model with int8 weights (one scale per output channel) and quantised activations.

    An activation has one range for all channels. Convolutions of which the channels differ too much for that, such as
    the depthwise ones of an EfficientNet, stay float; in a model that has any, additions stay float too.

    Args:
        source: a float model. target: the file to write.
        inputs: f32 [1, 3, H, W] each, from which the ranges of the activations are measured.
        method: `minmax` (the range of all values of an activation) or `percentile` (without the values farthest out).
        symmetric: in the form that TensorRT takes, activations int8 around 0; otherwise uint8 with a zero point, which
            is the fast type on CPUs.

    Returns:
        the names of the convolutions that stay float.

    Raises:
        UserError: the opset is too low, or the model cannot be quantised.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    opset = next(entry.version for entry in onnx.load(str(source)).opset_import if entry.domain in ("", "ai.onnx"))
    if opset < QDQ_OPSET:
        raise UserError(f"--opset {opset}: int8 with one scale per channel needs an opset of at least {QDQ_OPSET}")
    # Entropy is left out: with onnxruntime's fixed 128 bins for 128 steps it always finds the whole range.
    methods = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, _only_errors():
        prepared = Path(folder) / "prepared.onnx"
        # Sizes are constants in these graphs; symbolic inference would need sympy and adds nothing.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(str(prepared))
        quantise = partial(
            quantize_static,
            str(prepared),
            str(target),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[method],
        )
        extra = {"CalibPercentile": PERCENTILE, **(FOR_TENSORRT if symmetric else {"WeightSymmetric": True})}
        entry = model.graph.input[0].name
        quantise(_Reader(entry, inputs), extra_options=extra)
        noisy = _noisy(model, onnx.load(str(target)), inputs)
        if noisy:
            quantise(
                _Reader(entry, inputs),
                nodes_to_exclude=noisy,
                op_types_to_quantize=["Conv"],
                extra_options=extra | {"OpTypesToExcludeOutputQuantization": ["Conv"]},
            )
    return noisy


def _noisy(model: onnx.ModelProto, quantised: onnx.ModelProto, inputs: Sequence[np.ndarray]) -> list[str]:
    """Names of the convolutions of which 8 bits change the input by more than ``NOISE``."""
    convolutions = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
    power = _power(model, {node.input[0] for node in convolutions.values()}, inputs)
    tensors = {tensor.name: tensor for tensor in quantised.graph.initializer}
    pairs = {node.output[0]: node for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    found = []
    for node in quantised.graph.node:
        if node.name in convolutions and node.input[0] in pairs:
            step = float(numpy_helper.to_array(tensors[pairs[node.input[0]].input[1]]))
            depthwise = any(entry.name == "group" and entry.i > 1 for entry in node.attribute)
            if relative_noise(step, power[convolutions[node.name].input[0]], depthwise) > NOISE:
                found.append(node.name)
    return found


def _power(model: onnx.ModelProto, names: set[str], inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The mean square of each channel of these activations."""
    import onnxruntime

    entry = model.graph.input[0].name
    wanted = sorted(names - {entry})
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    there = {output.name for output in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in there)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    power = dict.fromkeys(names | {entry}, np.zeros(1))
    for value in track(inputs, "measuring activations"):
        values = session.run(wanted, {entry: value}) if wanted else []  # without names it would return all outputs
        for name, found in zip([entry, *wanted], [value, *values], strict=True):
            power[name] = power[name] + (found.astype(np.float64) ** 2).mean((0, 2, 3)) / len(inputs)
    return power


def to_fp16(source: Path, target: Path) -> None:
    """Write a model that computes in half precision; inputs and outputs stay f32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _only_errors():
        onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(target))


class _Reader:
    """The inputs, as onnxruntime's calibration reads them: one dict per call, None at the end."""

    def __init__(self, name: str, inputs: Sequence[np.ndarray]) -> None:
        self._feeds: Iterator[dict[str, Any]] = ({name: value} for value in inputs)
        self._size = len(inputs)

    def get_next(self) -> dict[str, Any] | None:
        """The next input."""
        return next(self._feeds, None)

    def __len__(self) -> int:
        return self._size


@contextlib.contextmanager
def _only_errors() -> Iterator[None]:
    """Hide the tools' remarks on tensors that stay in float and on histograms."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(previous)
