"""Builds an engine with TensorRT's Python package (10 or 11), and runs it on an NVIDIA GPU."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.deploy.parts.session import Session
from mmcv_overrides.errors import UserError


def lacking() -> str | None:
    """What this machine lacks to build and run engines, or None."""
    if importlib.util.find_spec("tensorrt") is None:
        return "the Python package tensorrt is not installed"
    import torch

    return None if torch.cuda.is_available() else "torch finds no NVIDIA GPU"


def build(onnx: Path, engine: Path, tf32: bool) -> None:
    """Build an engine in the number types of an ONNX file.

    Args:
        tf32: whether f32 convolutions may be computed in TF32.

    Raises:
        UserError: TensorRT cannot read or compile the file.
    """
    trt: Any = importlib.import_module("tensorrt")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse(onnx.read_bytes()):
        faults = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise UserError(f"TensorRT cannot read {onnx}: {'; '.join(faults)[:500]}")
    config = builder.create_builder_config()
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UserError(f"TensorRT cannot build an engine from {onnx}; its messages are above")
    engine.write_bytes(plan)


class EngineSession(Session):
    """An engine on the first NVIDIA GPU.

    Args:
        path: of the engine. description: of the export.

    Raises:
        UserError: TensorRT cannot load the file (damaged, or built by another version or for another GPU), or an
            output of the description is missing.
    """

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        import torch

        trt: Any = importlib.import_module("tensorrt")
        self.path, self.batch = path, 1
        self.height, self.width = description["input"]["example_shape"]
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise UserError(
                f"{path} cannot be loaded by TensorRT {trt.__version__}: it is damaged, or was built by another "
                "version or for another GPU"
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.input_name = description["input"]["name"]
        self.outputs = [entry["name"] for entry in description["outputs"]]
        missing = [name for name in (self.input_name, *self.outputs) if name not in names]
        if missing:
            raise UserError(f"{path} has no tensor {missing[0]}: it does not belong to its description")
        self._context = self._engine.create_execution_context()
        # Inputs and outputs are f32 at every precision.
        self._tensors = {name: torch.empty(tuple(self._engine.get_tensor_shape(name)), device="cuda") for name in names}
        for name, tensor in self._tensors.items():
            self._context.set_tensor_address(name, tensor.data_ptr())

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch f32 [1, 3, H, W]."""
        import torch

        self._tensors[self.input_name].copy_(torch.from_numpy(np.ascontiguousarray(images)))
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise UserError(f"{self.path}: TensorRT could not run the engine; its messages are above")
        stream.synchronize()
        return [self._tensors[name].cpu().numpy() for name in self.outputs]
