"""Runs a quantised ONNX model of the vendor's compiler. Run by path in the compiler's Python, where this project is not
installed."""

from __future__ import annotations

from typing import Any

import numpy as np

Answer = tuple[dict[str, Any], list[np.ndarray]]
_models: list[Quantised] = []


class Quantised:
    """The model with the integers before each dequantisation as its outputs.

    Args:
        path: of the quantised ONNX file.
    """

    def __init__(self, path: str) -> None:
        import onnx
        from horizon_tc_ui import HB_ONNXRuntime
        from onnx import numpy_helper

        model = onnx.load(path)
        known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        wanted = [output.name for output in model.graph.output]
        last: dict[str, Any] = {name: node for node in model.graph.node for name in node.output}
        self.places: list[tuple[str, np.ndarray | None]] = []
        for name in wanted:
            node = last.get(name)
            if node is not None and node.op_type == "HzDequantize" and node.input[1] in known:
                self.places.append((node.input[0], np.asarray(known[node.input[1]], np.float32).reshape(-1)))
                if node.input[0] not in wanted:
                    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.input[0]))
            else:
                self.places.append((name, None))
        self.names = wanted
        self._session = HB_ONNXRuntime(onnx_model=model)
        self._input = model.graph.input[0].name

    def run(self, image: np.ndarray) -> list:
        """Outputs of an image int8 [1, H, W, 3]: YUV minus 128."""
        return self._session.run([place for place, _ in self.places], {self._input: image})


def load(arrays: list[np.ndarray], path: str) -> Answer:
    """Load a model; returns the names of its outputs and the scales of each, empty for an output in floats."""
    _models[:] = [Quantised(path)]
    scales = [np.zeros(0, np.float32) if scale is None else scale for _, scale in _models[0].places]
    return {"outputs": _models[0].names}, scales


def run(arrays: list[np.ndarray]) -> Answer:
    """Outputs of the image."""
    return {}, _models[0].run(arrays[0])


CALLS = {"load": load, "run": run}
