"""``--target caffe``: `.prototxt` and `.caffemodel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos_train.deploy.caffe.convert import write_caffe
from fcos_train.deploy.caffe.operators import BATCH_NORM, BN_HEAD, NO_DCN
from fcos_train.deploy.caffe.session import CaffeSession, require_reader
from fcos_train.deploy.parts.blobs import FLOAT32
from fcos_train.deploy.parts.files import some
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.sides import side_faults
from fcos_train.deploy.parts.target import Conversion, Target

# Layers of PyTorch without a counterpart, by the name of their class, with the cure.
WITHOUT_LAYER = {
    "DeformConv2d": NO_DCN,
    "GroupNorm": BN_HEAD,
    "LayerNorm": BATCH_NORM,
    "ModulatedDeformConv2d": NO_DCN,
}


class Caffe(Target):
    """Caffe's files, which OpenCV 4, BVLC caffe and the converters of many vendors read."""

    name, suffix = "caffe", ".prototxt"
    end, opset = "adelaidet", 11
    extra = "export"
    limits = {"fp32": FLOAT32}

    def require(self) -> None:
        """OpenCV verifies what is written."""
        super().require()
        require_reader()

    def early_faults(self, model: Any, shape: tuple[int, int]) -> list[str]:
        """Layers that caffe does not have, and sides by which a map would not be enlarged by a whole factor."""
        found: dict[str, list[str]] = {}
        for name, module in model.named_modules():
            kind = next((base.__name__ for base in type(module).__mro__ if base.__name__ in WITHOUT_LAYER), None)
            if kind:
                found.setdefault(kind, []).append(name)
        layers = [f"there is no layer for {kind} ({some(at, 1)}): {WITHOUT_LAYER[kind]}" for kind, at in found.items()]
        return [*layers, *side_faults(shape, model)]

    def convert(self, job: Conversion) -> None:
        """Write both files."""
        write_caffe(job.onnx, job.output)

    def open(self, path: Path, description: Mapping[str, Any]) -> Session:
        """A session in OpenCV."""
        return CaffeSession(path, description)

    def files(self, path: Path) -> list[Path]:
        """The network and its weights."""
        return [path, path.with_suffix(".caffemodel")]

    def next_steps(self, path: Path) -> list[str]:
        """How OpenCV loads them."""
        return [f'load it with cv2.dnn.readNetFromCaffe("{path}", "{path.with_suffix(".caffemodel")}")']
