"""Writes OpenVINO models (`.xml` and `.bin`) and runs them on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.deploy.parts.blobs import FLOAT32, Limits
from fcos_train.deploy.parts.description import rule_of
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.target import Conversion, Target
from mmcv_overrides.errors import UserError

CALIBRATION = 40  # images


class OpenVino(Target):
    """``--target openvino``."""

    name, suffix, extra = "openvino", ".xml", "openvino"
    precisions = ("fp32", "fp16", "int8")
    packages = {"openvino": "openvino", "nncf": "nncf"}
    limits = {"fp32": FLOAT32, "fp16": Limits(0.1, 0.05), "int8": Limits(cosine=0.9)}

    def convert(self, job: Conversion) -> None:
        """Write the model; int8 is quantised by nncf after calibration with training images."""
        import openvino

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
    import logging

    import nncf

    logging.getLogger("nncf").setLevel(logging.WARNING)
    rule = rule_of(job.description)
    images = [rule.prepare(image)[None] for image in job.calibration(CALIBRATION)]
    job.say(f"calibrating with {len(images)} images")
    return nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))


class OpenVinoSession(Session):
    """An OpenVINO model on the CPU, in single precision.

    Args:
        path: the `.xml` file. description: of the export.

    Raises:
        UserError: a file is missing or damaged, or an output of the description is.
    """

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        import openvino

        self.path, self.batch = path, 1
        self.height, self.width = description["input"]["example_shape"]
        if not path.with_suffix(".bin").is_file():
            raise UserError(f"{path} lacks its weights {path.with_suffix('.bin').name} beside it")
        try:
            self._model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            text = str(error).strip().splitlines()[-1]
            raise UserError(f"{path} cannot be loaded by OpenVINO: {text[:300]}") from error
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
