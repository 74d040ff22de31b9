"""The targets of ``fcos-train export``, by name; a target's package is imported when it is used.

This module imports no torch, so that a command line can offer :data:`TARGETS` at once.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mmcv_overrides.errors import UserError

if TYPE_CHECKING:
    from fcos_train.deploy.parts.target import Target

# Name -> "module:class" of a `Target`.
_REGISTRY: dict[str, str] = {
    "caffe": "caffe.target:Caffe",
    "openvino": "openvino.target:OpenVino",
    "ncnn": "ncnn.target:Ncnn",
    "rdk-x5": "rdk.target:RdkX5",
    "rdk-x3": "rdk.target:RdkX3",
    "onnx-int8": "onnx_int8.target:OnnxInt8",
    "rknn": "rknn.target:Rknn",
    "tensorrt": "tensorrt.target:TensorRt",
}
TARGETS = ("onnx", *_REGISTRY)
# Suffix of the main file -> name, to recognise an artefact without importing its package; the first is the usual one.
SUFFIXES: dict[str, str] = {
    ".prototxt": "caffe",
    ".xml": "openvino",
    ".param": "ncnn",
    "_x5.bin": "rdk-x5",
    "_x3.bin": "rdk-x3",
    "_x5.yaml": "rdk-x5",  # where the compiler is not installed
    "_x3.yaml": "rdk-x3",
    ".int8.onnx": "onnx-int8",
    ".rknn": "rknn",
    ".engine": "tensorrt",
}


@cache
def target_of(name: str) -> Target:
    """The target of this name, one of :data:`TARGETS` but `onnx`."""
    module, _, kind = _REGISTRY[name].partition(":")
    return getattr(importlib.import_module(f"fcos_train.deploy.{module}"), kind)()


def suffix_of(name: str) -> str:
    """Suffix of the main file of a target."""
    return next((suffix for suffix, target in SUFFIXES.items() if target == name), ".onnx")


def named_by(path: str | Path) -> str | None:
    """Name of the target that writes files of this name; None for a checkpoint and other files."""
    name = Path(path).name
    found = next((target for suffix, target in SUFFIXES.items() if name.endswith(suffix)), None)
    return found or ("onnx" if name.endswith(".onnx") else None)


def require_artefact(path: str | Path) -> str:
    """Name of the target of a file.

    Raises:
        UserError: there is no such file, or no target writes files with this suffix.
    """
    found = named_by(path)
    if found is None:
        raise UserError(f"{path}: not an exported model; known are *.onnx, {', '.join(f'*{s}' for s in SUFFIXES)}")
    if not Path(path).exists():
        raise UserError(f"{path}: there is no such file")
    return found


def shared_files(target: Target, path: Path) -> list[str]:
    """Faults: files of an artefact at ``path`` that belong to an exported model of another target beside it.

    ncnn and OpenVINO both keep their weights in ``<name>.bin``, for example.
    """
    own = set(target.files(path))
    faults = []
    for suffix, name in SUFFIXES.items():
        for main in sorted(path.parent.glob(f"*{suffix}")) if name != target.name else []:
            if main.with_name(f"{main.name}.json").is_file():
                shared = sorted(file.name for file in own & set(target_of(name).files(main)))
                faults += [f"{file} belongs to {main}; give another --output-file" for file in shared]
    return faults
