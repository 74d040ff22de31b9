"""Runs what stands for a board on a PC: the compiler's quantised ONNX file, or the float one with emulated outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.worker import Worker
from fcos_train.deploy.rdk import calls
from fcos_train.deploy.rdk.board.maps import Map
from fcos_train.deploy.rdk.board.nv12 import to_nv12, to_yuv444
from fcos_train.deploy.rdk.board.runtimes import Runtime
from fcos_train.deploy.rdk.mapper_config import pixels
from fcos_train.deploy.rdk.toolchain import Toolchain
from mmcv_overrides.errors import UserError

QUANTISED = "_quantized_model.onnx"  # the compiler's name


class QuantisedRuntime(Runtime):
    """The quantised ONNX file in the compiler's own Python, in a process that stays alive.

    Its outputs are the integers before each dequantisation, as the compiled model for the X5 gives them; whether a
    board gives the same to the last bit was not checked.

    Args:
        path: the file. description: of the export. toolchain: the installed compiler.

    Raises:
        UserError: no such file, or the compiler's runtime cannot load it.
    """

    name = "the compiler's quantised ONNX"

    def __init__(self, path: Path, description: Mapping[str, Any], toolchain: Toolchain) -> None:
        if not path.is_file():
            raise UserError(f"{path}: there is no such file; the compiler writes it beside the .bin")
        self.path = path
        self.height, self.width = description["input"]["example_shape"]
        self._worker = Worker(toolchain.python, calls.__file__, f"{path}: the compiler's runtime")
        header, scales = self._worker.call("load", path=str(path.resolve()))
        shapes = {entry["name"]: tuple(entry["shape"]) for entry in description["outputs"]}
        strange = [name for name in header["outputs"] if name not in shapes]
        if strange:
            self.close()
            raise UserError(f"{path} has an output {strange[0]} that its description lacks")
        self.outputs = [
            Map(name, shapes[name], scale if scale.size else None)
            for name, scale in zip(header["outputs"], scales, strict=True)
        ]

    def run(self, packed: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for an NV12 image."""
        image = (to_yuv444(packed, self.height, self.width).astype(np.int16) - 128).astype(np.int8)[None]
        return self._worker.call("run", [image])[1]

    def close(self) -> None:
        """End the process."""
        self._worker.close()


class BoardSession(Session):
    """A runtime that takes NV12 images, as a session: prepared inputs in, float maps out.

    Args:
        path: the file of the model. description: of the export. runtime: runs it.

    Raises:
        UserError: an output of the description is missing.
    """

    def __init__(self, path: Path, description: Mapping[str, Any], runtime: Runtime) -> None:
        self.path, self.batch = path, 1
        self.height, self.width = runtime.height, runtime.width
        self.outputs = [entry["name"] for entry in description["outputs"]]
        there = [output.name for output in runtime.outputs]
        missing = [name for name in self.outputs if name not in there]
        if missing:
            raise UserError(f"{path} has no output {missing[0]}: it does not belong to its description")
        self._places = [there.index(name) for name in self.outputs]
        self._runtime, self._description = runtime, description

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the maps for an input f32 [1, 3, H, W], which goes through NV12 first."""
        return in_floats(self._runtime, self._runtime.run(self.packed(images[0])), self._places)

    def packed(self, prepared: np.ndarray) -> np.ndarray:
        """The NV12 image of a prepared input [3, H, W]."""
        image = pixels(prepared, self._description).astype(np.uint8).transpose(1, 2, 0)
        return to_nv12(np.ascontiguousarray(image[:, :, ::-1] if self._description["bgr_to_rgb"] else image))


def in_floats(runtime: Runtime, maps: Sequence[np.ndarray], places: Sequence[int]) -> list[np.ndarray]:
    """The maps at these places of a runtime's outputs, as floats."""
    found = []
    for place in places:
        output, values = runtime.outputs[place], np.asarray(maps[place])
        values = values if output.scales is None else values * output.scales
        found.append(values.astype(np.float32).reshape(output.shape))
    return found
