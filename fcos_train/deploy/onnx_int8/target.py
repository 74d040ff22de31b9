"""Writes an int8 ONNX file and runs it in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos_train.deploy.onnx.number_types import to_int8
from fcos_train.deploy.parts.blobs import INT8, Limits
from fcos_train.deploy.parts.calibration import inputs
from fcos_train.deploy.parts.session import OnnxSession, Session
from fcos_train.deploy.parts.target import Conversion, Target


class OnnxInt8(Target):
    """``--target onnx-int8``."""

    name, suffix, extra = "onnx-int8", ".int8.onnx", "export"
    precisions = ("int8",)
    packages = {"onnx": "onnx", "onnxruntime": "onnxruntime"}
    limits: Mapping[str, Limits] = {"int8": INT8}

    def convert(self, job: Conversion) -> None:
        """Quantise with the ranges of training images."""
        method = job.settings.get("calibration_method", "percentile")
        job.say_float(to_int8(job.onnx, job.output, inputs(job), method))

    def open(self, path: Path, description: Mapping[str, Any]) -> Session:
        """A session of onnxruntime on the CPU."""
        return OnnxSession(path, None, *description["input"]["example_shape"])

    def next_steps(self, path: Path) -> list[str]:
        """How the mAP is measured."""
        return [f"mAP of both: fcos-train ascend evaluate --checkpoint CKPT --model {path} --data-path DIR"]
