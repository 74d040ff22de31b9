"""Runs a quantised ONNX model of the vendor's compiler; started by :mod:`.mapper_session` in the compiler's Python.

It imports nothing of this project. Messages on stdin and stdout are one line of JSON with the lengths of the arrays
that follow it as `.npy` bytes. The first message is sent without being asked for: the model's outputs and scales.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import IO, Any

import numpy as np


def send(stream: IO[bytes], header: dict, arrays: list) -> None:
    """Write a message."""
    parts = []
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array))
        parts.append(buffer.getvalue())
    stream.write((json.dumps({**header, "lengths": [len(part) for part in parts]}) + "\n").encode())
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict, list] | None:
    """Read a message; None at the end of the stream."""
    line = stream.readline()
    if not line:
        return None
    header = json.loads(line)
    parts = [stream.read(length) for length in header["lengths"]]
    if any(len(part) != length for part, length in zip(parts, header["lengths"])):
        return None
    return header, [np.load(io.BytesIO(part), allow_pickle=False) for part in parts]


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


def main() -> int:
    """Answer images until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the vendor's packages print must not stand between two messages
    try:
        model = Quantised(sys.argv[1])
    except Exception as error:
        send(answers, {"error": f"{type(error).__name__}: {error}"}, [])
        return 1
    scales = [np.zeros(0, np.float32) if scale is None else scale for _, scale in model.places]
    send(answers, {"outputs": model.names}, scales)
    while True:
        message = receive(sys.stdin.buffer)
        if message is None:
            return 0
        try:
            send(answers, {}, model.run(message[1][0]))
        except Exception as error:
            send(answers, {"error": f"{type(error).__name__}: {error}"}, [])


if __name__ == "__main__":
    sys.exit(main())
