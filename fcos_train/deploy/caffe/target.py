"""``--target caffe``: `.prototxt` and `.caffemodel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos_train.deploy.caffe.convert import write_caffe
from fcos_train.deploy.caffe.operators import BN_HEAD
from fcos_train.deploy.caffe.session import CaffeSession, require_reader
from fcos_train.deploy.parts.blobs import FLOAT32
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.target import Conversion, Target


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

    def convert(self, job: Conversion) -> None:
        """Write both files."""
        write_caffe(job.onnx, job.output)

    def open(self, path: Path, description: Mapping[str, Any]) -> Session:
        """A session in OpenCV."""
        return CaffeSession(path, description)

    def files(self, path: Path) -> list[Path]:
        """The network and its weights."""
        return [path, path.with_suffix(".caffemodel")]

    def next_steps(self, path: Path, description: Mapping[str, Any]) -> list[str]:
        """How OpenCV loads them."""
        return [f'load it with cv2.dnn.readNetFromCaffe("{path}", "{path.with_suffix(".caffemodel")}")']
