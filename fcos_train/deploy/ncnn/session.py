"""Runs networks of ncnn on the CPU. ncnn reports faults by return codes only: all are checked here."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.deploy.ncnn.graph import read_graph
from fcos_train.deploy.ncnn.weights import require_whole
from fcos_train.deploy.parts.session import Session
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable


class Network:
    """A network in single precision, whatever the CPU prefers; one image at a time, of any size that fits.

    Args:
        param, weights: its two files.
        keep: keep all blobs of a run, so that any of them can be read.

    Attributes:
        graph: the layers.
        input: name of the input.

    Raises:
        UserError: a missing, damaged or truncated file, weights of another graph, or layers that ncnn does not have.
    """

    def __init__(self, param: Path, weights: Path, keep: bool = False) -> None:
        self.param, self.graph = param, read_graph(param)
        if len(self.graph.inputs) != 1:
            raise UserError(f"{param}: expected one input, found {len(self.graph.inputs)}")
        self.input = self.graph.inputs[0]
        require_whole(self.graph, weights)
        if importlib.util.find_spec("ncnn") is None:
            raise UserError(f"{param} runs in ncnn, which is not installed: pip install ncnn")
        import ncnn

        self._net = ncnn.Net()
        self._mat = ncnn.Mat
        options = self._net.opt
        options.lightmode = not keep
        options.use_vulkan_compute = False
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            setattr(options, f"use_{name}", False)
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if threads.isdecimal() and int(threads):
            options.num_threads = int(threads)
        absent = sorted(kind for kind in {layer.kind for layer in self.graph.layers} if ncnn.layer_to_index(kind) < 0)
        if absent:
            raise UserError(f"ncnn has no layer {printable(', '.join(absent))}, which {param.name} asks for")
        if self._net.load_param(str(param)) != 0:
            raise UserError(f"{param} cannot be loaded by ncnn: a layer has parameters that it refuses")
        if self._net.load_model(str(weights)) != 0:
            raise UserError(f"{weights} cannot be loaded by ncnn: it is truncated, or belongs to another .param file")

    def require(self, names: Sequence[str]) -> None:
        """Refuse names of blobs that the network does not have.

        Raises:
            UserError: the message names the first one.
        """
        missing = [name for name in names if name not in self.graph.blobs]
        if missing:
            raise UserError(f"{self.param} has no blob {missing[0]}: it does not belong to its description")

    def run(self, image: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """Compute blobs [C, H, W] f32 for an image f32 [3, H, W].

        Raises:
            UserError: no such blob, or ncnn fails.
        """
        return list(self.blobs(image, names))

    def blobs(self, image: np.ndarray, names: Sequence[str]) -> Iterator[np.ndarray]:
        """The same one after another, for many or large blobs."""
        self.require(names)
        extractor = self._net.create_extractor()
        pixels = np.ascontiguousarray(image, np.float32)  # ncnn's matrix refers to its memory, so it must stay
        self._checked(extractor.input(self.input, self._mat(pixels).clone()), "take", self.input)
        for name in names:
            code, blob = extractor.extract(name)
            self._checked(code, "compute", name)
            yield np.array(blob)

    def _checked(self, code: int, what: str, name: str) -> None:
        if code != 0:
            reason = "not enough memory, or an input of another size" if code == -100 else "see its lines above"
            raise UserError(f"{self.param}: ncnn could not {what} blob {name} (code {code}: {reason})")


class NcnnSession(Session):
    """An exported model in ncnn.

    Args:
        path: the `.param` file, with its `.bin` beside it. description: of the export.

    Raises:
        UserError: as for :class:`Network`, or an output of the description is missing.
    """

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        self.path, self.batch = path, 1
        self.height, self.width = description["input"]["example_shape"]
        self.network = Network(path, path.with_suffix(".bin"))
        self.input_name = self.network.input
        self.outputs = [entry["name"] for entry in description["outputs"]]
        self.network.require(self.outputs)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch f32 [1, 3, H, W]."""
        return [blob[None] for blob in self.network.run(images[0], self.outputs)]
