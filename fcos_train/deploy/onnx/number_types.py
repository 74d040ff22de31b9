"""Rewrites a float ONNX model in int8 (pairs of QuantizeLinear and DequantizeLinear) or fp16.

Both are done by onnxruntime's own tools.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mmcv_overrides.errors import UserError

PERCENTILE = 99.99  # of the values of an activation, that its range holds
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
) -> None:
    """Write a model with int8 weights (one scale per output channel) and quantised activations.

    Args:
        source: a float model. target: the file to write.
        inputs: f32 [1, 3, H, W] each, from which the ranges of the activations are measured.
        method: `minmax` (the range of all values of an activation) or `percentile` (without the values farthest out).
        symmetric: in the form that TensorRT takes, activations int8 around 0; otherwise uint8 with a zero point, which
            is the fast type on CPUs.

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
        quantize_static(
            str(prepared),
            str(target),
            _Reader(onnx.load(str(prepared)).graph.input[0].name, inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[method],
            extra_options={"CalibPercentile": PERCENTILE, **(FOR_TENSORRT if symmetric else {"WeightSymmetric": True})},
        )


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
