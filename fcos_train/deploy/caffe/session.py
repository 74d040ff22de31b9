"""Runs caffe's files with OpenCV, after checking that the two belong together and are whole."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from fcos_train.deploy.caffe.messages import NetParameter
from fcos_train.deploy.parts.session import Session
from mmcv_overrides.errors import UserError

WEIGHTED = ("Convolution", "Deconvolution", "Scale")
FLOAT = np.dtype("<f4").itemsize


class CaffeSession(Session):
    """A caffe network in OpenCV on the CPU.

    Args:
        path: the `.prototxt`; the weights are in the same folder. description: of the export.

    Raises:
        UserError: a file is absent, truncated or damaged, or they do not belong together or to the description.
    """

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        require_reader()
        weights = path.with_suffix(".caffemodel")
        network = read_network(path)
        self.path, self.batch = path, 1
        self.height, self.width = description["input"]["example_shape"]
        self.input_name = description["input"]["name"]
        self.outputs = [entry["name"] for entry in description["outputs"]]
        self._require_described(network)
        require_weights(network, read_weights(weights), path, weights)
        try:
            self._net = cv2.dnn.readNetFromCaffe(str(path), str(weights))
        except cv2.error as error:
            raise UserError(f"{path} cannot be loaded by OpenCV {cv2.__version__}: {error.err}") from error

    def _require_described(self, network: Any) -> None:
        """The input and the outputs are those of the description."""
        there = {top for layer in network.layer for top in layer.top}
        missing = [name for name in (self.input_name, *self.outputs) if name not in there]
        if missing:
            raise UserError(f"{self.path} has no blob {missing[0]}: it is cut off, or not that of its description")
        shapes = [tuple(layer.input_param.shape[0].dim) for layer in network.layer if layer.input_param.shape]
        if shapes != [self.shape]:
            raise UserError(f"{self.path} takes inputs of the shapes {shapes}, its description says {self.shape}")

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch f32 [1, 3, H, W]."""
        if images.shape != self.shape:
            raise UserError(f"{self.path} takes images of the shape {self.shape}, not {images.shape}")
        self._net.setInput(np.ascontiguousarray(images, np.float32), self.input_name)
        try:
            # OpenCV may reuse the memory of its blobs in the next call.
            return [np.array(blob) for blob in self._net.forward(self.outputs)]
        except cv2.error as error:
            raise UserError(f"{self.path} cannot be run by OpenCV {cv2.__version__}: {error.err}") from error


def require_reader() -> None:
    """Refuse an OpenCV that does not read caffe's files.

    Raises:
        UserError: it is version 5 or newer.
    """
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise UserError(f"OpenCV {cv2.__version__} does not read caffe's files: pip install 'opencv-python-headless<5'")


def read_network(path: Path) -> Any:
    """The layers of a `.prototxt`, without weights.

    Raises:
        UserError: absent, or not a network.
    """
    network = NetParameter()
    try:
        # Fields of other programs are none of our business: OpenCV reads them.
        text_format.Parse(_content(path).decode(), network, allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a caffe network, or is cut off: {str(error).splitlines()[0]}") from error
    if not network.layer:
        raise UserError(f"{path} has no layer")
    return network


def read_weights(path: Path) -> Any:
    """The layers of a `.caffemodel`, with weights.

    Raises:
        UserError: absent, truncated, or not caffe's.
    """
    weights = NetParameter()
    try:
        weights.ParseFromString(_content(path))
    except DecodeError as error:
        raise UserError(f"{path} is not a caffemodel, or is cut off: {error}") from error
    return weights


def require_weights(network: Any, weights: Any, path: Path, weights_path: Path) -> None:
    """Each layer of the network has its weights, of the size that it says.

    OpenCV itself accepts a file that ends after any layer, and reports the absence when the network runs.

    Raises:
        UserError: a layer lacks its weights, or the weights of a layer are not those of this network.
    """
    there = {layer.name: layer for layer in weights.layer}
    for layer in network.layer:
        if layer.type not in WEIGHTED:
            continue
        if layer.name not in there:
            raise UserError(f"{weights_path} lacks the layer {layer.name}: it is cut off, or not that of {path.name}")
        found = there[layer.name]
        blobs = [tuple(blob.shape.dim) for blob in found.blobs]
        sizes = [len(blob.data) // FLOAT for blob in found.blobs]
        wanted = layer.scale_param.bias_term if layer.type == "Scale" else _has_bias(layer)
        if len(blobs) != 1 + wanted or sizes != [prod(shape) for shape in blobs] or not _fits(layer, blobs[0]):
            raise UserError(f"{weights_path}: the weights of {layer.name} are not those of {path.name}: {blobs}")


def _has_bias(layer: Any) -> bool:
    values = layer.convolution_param
    return values.bias_term if values.HasField("bias_term") else True


def _fits(layer: Any, shape: tuple[int, ...]) -> bool:
    """Whether the first weights have the channels and kernel of the layer."""
    values = layer.convolution_param
    if layer.type == "Scale":
        return len(shape) == 1
    kernel = [*values.kernel_size] * (2 if len(values.kernel_size) == 1 else 1)
    return shape[0] == values.num_output and list(shape[2:]) == (kernel or [values.kernel_h, values.kernel_w])


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
