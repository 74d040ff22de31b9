"""What runs a model on NV12 images: the runtimes of a board, and onnxruntime as a stand-in for them."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .maps import Map
from .nv12 import BoardError, to_bgr

# Of emulated int32 maps whose scales are not known: about the size of those that the vendor's compiler chooses.
USUAL_SCALE = 2.0**-18


class Runtime:
    """Runs a model. Subclasses set the attributes and implement :meth:`run`.

    Attributes:
        name: of the runtime, for the log.
        height, width: of the input. outputs: of the model, in its order.
    """

    name: str
    height: int
    width: int
    outputs: list[Map]

    def run(self, packed: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for an NV12 image u8 [H * W * 3 / 2]: int32 with scales, or float32."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what the runtime holds."""


class HobotDnn(Runtime):
    """``hobot_dnn.pyeasy_dnn``, which the images of the boards bring along.

    Args:
        path: a `.bin` file. module: the imported ``pyeasy_dnn``.
        priority: of the tasks, 0 to 255. cores: of the BPU; None: the runtime's choice.
    """

    name = "hobot_dnn"

    def __init__(self, path: str | Path, module: Any, priority: int = 0, cores: tuple[int, ...] | None = None) -> None:
        self._model = _loaded(path, lambda: module.load(str(path))[0])
        if hasattr(self._model, "set_scheduling_params") and (priority or cores):
            self._model.set_scheduling_params(priority=priority, bpu_cores=list(cores or [0]))
        taken = self._model.inputs[0].properties
        shape = [int(side) for side in taken.shape]
        self.height, self.width = shape[1:3] if str(taken.layout) == "NHWC" else shape[2:4]
        self.outputs = [
            Map(str(output.name), tuple(int(side) for side in output.properties.shape), _scales(output.properties))
            for output in self._model.outputs
        ]

    def run(self, packed: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for an NV12 image."""
        return [np.asarray(output.buffer) for output in self._model.forward(packed)]


class BpuInferLib(Runtime):
    """``bpu_infer_lib``, the other Python interface of the boards.

    Args:
        path: a `.bin` file. module: the imported package. size: height and width of the input, which it does not tell.
    """

    name = "bpu_infer_lib"

    def __init__(self, path: str | Path, module: Any, size: tuple[int, int] | None) -> None:
        if size is None:
            raise BoardError(
                f"{path}: bpu_infer_lib does not tell the size of the input; keep the description (.json) beside the "
                "model, or its size in its name (..._512x512_...)"
            )
        self.height, self.width = size
        self._model = module.Infer(False)
        _loaded(path, lambda: self._model.load_model(str(path)))
        self._known = False
        self.outputs = []
        self._find_outputs()

    def _find_outputs(self) -> None:
        """Shapes and scales of the outputs; the shapes are known after an image has been run."""
        found = self.run(np.full(self.height * self.width * 3 // 2, 128, np.uint8))
        for index, values in enumerate(found):
            scales = np.asarray(self._model.get_output_scale(index).scaleData, np.float32)
            self.outputs.append(Map(f"output {index}", values.shape, scales if scales.size else None))

    def run(self, packed: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for an NV12 image."""
        self._model.read_input(packed, 0)
        self._model.forward()
        self._model.get_output()
        return [np.asarray(output.data) for output in self._model.outputs]


class Emulated(Runtime):
    """The float ONNX model in onnxruntime, with the input and the outputs of a board.

    The colours go through NV12, and the maps are rounded to int32 with one scale per channel. The arithmetic in
    between is float32: what int8 costs is not seen.

    Args:
        path: an ONNX file with maps [1, h, w, channels]. description: of the export.

    Raises:
        BoardError: onnxruntime is not installed, or the file cannot be loaded.
    """

    name = "onnxruntime, emulated int32"

    def __init__(self, path: str | Path, description: Mapping[str, Any]) -> None:
        if importlib.util.find_spec("onnxruntime") is None:
            raise BoardError(f"{path} needs onnxruntime: pip install onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._model = _loaded(path, lambda: onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"]))
        self.height, self.width = (int(side) for side in description["input"]["example_shape"])
        self._flip = bool(description["bgr_to_rgb"])
        self._mean, self._std = (np.array(description[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
        known = description.get("rdk", {}).get("scales", {})
        self._integer = description.get("rdk", {}).get("integer_outputs", True)
        self.outputs = []
        for output in self._model.get_outputs():
            scales = np.asarray(known.get(output.name, [USUAL_SCALE] * output.shape[-1]), np.float32)
            self.outputs.append(Map(output.name, tuple(output.shape), scales if self._integer else None))

    def run(self, packed: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for an NV12 image."""
        image = to_bgr(packed, self.height, self.width)
        planes = (image[:, :, ::-1] if self._flip else image).transpose(2, 0, 1).astype(np.float32)
        maps = self._model.run(None, {self._model.get_inputs()[0].name: ((planes - self._mean) / self._std)[None]})
        if not self._integer:
            return maps
        return [np.rint(values / output.scales).astype(np.int32) for values, output in zip(maps, self.outputs)]


def on_board(
    path: str | Path, size: tuple[int, int] | None, priority: int = 0, cores: tuple[int, ...] | None = None
) -> Runtime:
    """The runtime of the board that is installed.

    Args:
        size: height and width of the input, where the description or the name of the model tells them.

    Raises:
        BoardError: neither package is installed, or the model cannot be loaded.
    """
    for name in ("hobot_dnn.pyeasy_dnn", "hobot_dnn_rdkx5.pyeasy_dnn"):
        if _there(name):
            return HobotDnn(path, importlib.import_module(name), priority, cores)
    if _there("bpu_infer_lib"):
        return BpuInferLib(path, importlib.import_module("bpu_infer_lib"), size)
    raise BoardError(
        f"{path}: a .bin runs on an RDK board, where hobot_dnn or bpu_infer_lib is installed; neither is here"
    )


def size_in_name(path: str | Path) -> tuple[int, int] | None:
    """Height and width in a name such as ``fcos_512x512_nv12.bin``."""
    found = re.search(r"(\d{2,5})x(\d{2,5})", Path(path).name)
    return (int(found[1]), int(found[2])) if found else None


def _there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _loaded(path: str | Path, load: Any) -> Any:
    """What ``load`` returns; its failure becomes a message that names the file."""
    if not Path(path).is_file():
        raise BoardError(f"{path}: there is no such file")
    try:
        return load()
    except Exception as error:  # every runtime has its own kinds
        raise BoardError(
            f"{path} cannot be loaded: {(str(error) or repr(error)).strip().splitlines()[0][:300]}"
        ) from error


def _scales(properties: Any) -> np.ndarray | None:
    """The scales of an output of ``hobot_dnn``; None for float outputs."""
    scales = np.asarray(getattr(properties, "scale_data", ()), np.float32).reshape(-1)
    return scales if scales.size else None
