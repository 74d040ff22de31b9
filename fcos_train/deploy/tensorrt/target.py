"""Writes the ONNX file that TensorRT compiles, verified in onnxruntime, and builds the engine where TensorRT is.

Networks of TensorRT 11 are strongly typed: the number types are those of the ONNX file, and TensorRT 10 can do the
same. fp16 and int8 are therefore in the file, not in flags of the builder.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos_train.deploy.onnx.number_types import to_fp16, to_int8
from fcos_train.deploy.parts.blobs import FLOAT16, FLOAT32, INT8
from fcos_train.deploy.parts.calibration import inputs
from fcos_train.deploy.parts.session import OnnxSession, Session
from fcos_train.deploy.parts.target import Conversion, Target
from fcos_train.deploy.tensorrt.engine import EngineSession, build, lacking
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole


class TensorRt(Target):
    """``--target tensorrt``."""

    name, suffix, extra = "tensorrt", ".engine", "export"
    precisions = ("fp32", "fp16", "int8")
    packages = {"onnx": "onnx", "onnxruntime": "onnxruntime"}
    limits = {"fp32": FLOAT32, "fp16": FLOAT16, "int8": INT8}

    def convert(self, job: Conversion) -> None:
        """Write the ONNX file and the script; build the engine if this machine can, unless it is a dry run."""
        onnx = _source(job.output)
        if job.precision == "int8":
            job.say_float(to_int8(job.onnx, onnx, inputs(job), symmetric=True))
        elif job.precision == "fp16":
            to_fp16(job.onnx, onnx)
        else:
            shutil.copy(job.onnx, onnx)
        script = write_whole(_script(job.output), script_text(job.output.name, job.precision))
        script.chmod(0o755)
        if lacking() is None and not job.settings.get("dry_run"):
            build(onnx, job.output, tf32=job.precision != "fp32")
        else:
            job.say("no engine is built here: the ONNX file that it is built from is compared, in onnxruntime")

    def open(self, path: Path, description: Mapping[str, Any]) -> Session:
        """The engine; while there is none, the ONNX file that it is built from."""
        if not path.is_file():
            return OnnxSession(_source(path), None, *description["input"]["example_shape"])
        reason = lacking()
        if reason:
            raise UserError(f"{path} runs where TensorRT is installed: {reason}. {_source(path)} runs in onnxruntime")
        return EngineSession(path, description)

    def files(self, path: Path) -> list[Path]:
        """The engine if it was built, the ONNX file, and the script."""
        return [file for file in (path, _source(path), _script(path)) if file.is_file()]

    def unfinished(self, path: Path) -> str | None:
        """Why there is no engine."""
        return None if path.is_file() else lacking() or "--dry-run"

    def commands(self, path: Path) -> Path:
        """The script that builds the engine."""
        return _script(path)


def script_text(engine: str, precision: str) -> str:
    """The script that builds an engine and compares it, run in its own folder.

    Args:
        engine: name of the engine; the ONNX file is in the same folder.
    """
    onnx = f"{engine}.onnx"
    words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", "--stronglyTyped", "--skipInference"]
    compare = ["polygraphy", "run", onnx, "--trt", "--strongly-typed", "--onnxrt"]
    if precision == "fp32":
        words.append("--noTF32")
        compare += ["--atol", "1e-3", "--rtol", "1e-3"]
    else:
        compare += ["--fail-fast", "--check-error-stat", "median", "--atol", "0.1"]
    return (
        "#!/bin/sh\n"
        "# Builds the engine (TensorRT 10 or 11), then compares TensorRT with ONNX Runtime where polygraphy is.\n"
        'set -e\ncd "$(dirname "$0")"\n'
        f"{shlex.join(words)}\n"
        f"if command -v polygraphy >/dev/null; then {shlex.join(compare)}; fi\n"
    )


def _source(path: Path) -> Path:
    """The ONNX file of an engine."""
    return path.with_name(f"{path.name}.onnx")


def _script(path: Path) -> Path:
    return path.with_name(f"{path.name}.sh")
