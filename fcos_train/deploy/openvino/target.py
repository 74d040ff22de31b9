"""Writes OpenVINO models (`.xml` and `.bin`) and runs them on the CPU."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.deploy.parts.blobs import FLOAT16, FLOAT32, INT8
from fcos_train.deploy.parts.calibration import inputs
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.target import Conversion, Target
from mmcv_overrides.errors import UserError


def without_telemetry(name: str) -> Any:
    """Import openvino or nncf. Both report their use to a server when imported, unless this package is absent."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module(name)


class OpenVino(Target):
    """``--target openvino``."""

    name, suffix, extra = "openvino", ".xml", "openvino"
    precisions = ("fp32", "fp16", "int8")
    packages = {"openvino": "openvino", "nncf": "nncf"}
    limits = {"fp32": FLOAT32, "fp16": FLOAT16, "int8": INT8}

    def convert(self, job: Conversion) -> None:
        """Write the model; int8 is quantised by nncf after calibration with training images."""
        openvino = without_telemetry("openvino")
        model = openvino.convert_model(str(job.onnx))
        if job.precision == "int8":
            model = _quantised(model, job)
        openvino.save_model(model, str(job.output), compress_to_fp16=job.precision == "fp16")

    def open(self, path: Path, description: Mapping[str, Any]) -> Session:
        """A session in single precision, whatever the CPU prefers."""
        return OpenVinoSession(path, description)

    def files(self, path: Path) -> list[Path]:
        """The graph and its weights."""
        return [path, path.with_suffix(".bin")]


def _quantised(model: Any, job: Conversion) -> Any:
    nncf = without_telemetry("nncf")
    nncf.set_log_level(logging.WARNING)
    images = inputs(job)
    # The correction of biases takes means over the few positions of far levels: there it does more harm than good.
    advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    # nncf draws its progress bars into logs as well
    with contextlib.nullcontext() if sys.stdout.isatty() else contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(model, nncf.Dataset(images), subset_size=len(images), advanced_parameters=advanced)


class OpenVinoSession(Session):
    """An OpenVINO model on the CPU, in single precision.

    Args:
        path: the `.xml` file. description: of the export.

    Raises:
        UserError: a file is missing or damaged, or an output of the description is.
    """

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        openvino = without_telemetry("openvino")
        self.path, self.batch = path, 1
        self.height, self.width = description["input"]["example_shape"]
        if not path.with_suffix(".bin").is_file():
            raise UserError(f"{path} lacks its weights {path.with_suffix('.bin').name} beside it")
        with open(path, errors="replace") as file:
            if "<net " not in file.read(1000):  # other formats of this suffix would be tried by other readers
                raise UserError(f"{path} cannot be loaded by OpenVINO: it is not the graph of a model, or is truncated")
        try:
            self._model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            text = str(error).strip().splitlines()[-1]
            raise UserError(f"{path} cannot be loaded by OpenVINO: {text[:300]}") from error
        shape = [int(side) for side in self._model.inputs[0].shape]
        if shape != list(self.shape):
            raise UserError(f"{path} takes an input {shape}, its description says {list(self.shape)}")
        there = {name: output for output in self._model.outputs for name in output.names}
        self.outputs = [entry["name"] for entry in description["outputs"]]
        missing = [name for name in self.outputs if name not in there]
        if missing:
            raise UserError(f"{path} has no output {missing[0]}: it does not belong to its description")
        self._ports = [there[name] for name in self.outputs]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch f32 [1, 3, H, W]."""
        found = self._model(images)
        return [found[port] for port in self._ports]
