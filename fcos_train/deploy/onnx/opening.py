"""Opens an exported ONNX file in the runtime that has its operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fcos_train.deploy.parts.session import OnnxSession, Session


def open_onnx(path: Path, description: dict[str, Any]) -> Session:
    """A session on an ONNX file, at the size of its description.

    Raises:
        UserError: no such file, or one that onnxruntime cannot load.
    """
    if description.get("custom_operators"):  # Ascend's; the reference evaluator alone needs the package onnx
        from fcos_train.deploy.onnx.evaluator import ReferenceSession

        return ReferenceSession(path, description)
    return OnnxSession(path, None, *description["input"]["example_shape"])
