"""What runs a batch through a model: the common interface of all runtimes, and onnxruntime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmcv_overrides.errors import UserError

if TYPE_CHECKING:
    import onnxruntime

# Operators of graphs with the end `ascend`.
CANN_ONLY = ("BatchMultiClassNMS", "RoiExtractor", "DeformableConv2D")


class Session:
    """Runs batches. Subclasses set the attributes and implement :meth:`run`.

    Attributes:
        path: the file of the model.
        outputs: names of the outputs, in order.
        batch, height, width: shape of the input, (N, 3, H, W).
        input_name: name of the input.
        kind: numpy type of the input.
        sample_shape: shape of one image of the input; None: (3, height, width).
    """

    path: Path
    outputs: list[str]
    batch: int
    height: int
    width: int
    input_name = "input"
    kind = "<f4"
    sample_shape: tuple[int, int, int] | None = None

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch f32 [batch, 3, H, W]."""
        raise NotImplementedError

    @property
    def sample_bytes(self) -> int:
        """Size of one image of the input, in bytes."""
        return 3 * self.height * self.width * np.dtype(self.kind).itemsize

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the whole input."""
        return (self.batch, *(self.sample_shape or (3, self.height, self.width)))

    def per_sample(self, outputs: list[np.ndarray], axis: int = 0) -> list[list[np.ndarray]]:
        """Split the outputs of a batch: for every image the list of its outputs, without the batch axis.

        Args:
            axis: the batch axis of the outputs.

        Raises:
            UserError: an output has no batch axis although the batch is larger than 1.
        """
        if self.batch == 1:
            return [outputs]
        for name, output in zip(self.outputs, outputs, strict=True):
            if output.ndim <= axis or output.shape[axis] != self.batch:
                raise UserError(
                    f"{self.path}: output {name} has the shape {output.shape} for a batch of {self.batch}, "
                    "so it cannot be split by image; this model takes one image at a time"
                )
        return [[output.take(index, axis) for output in outputs] for index in range(self.batch)]


def cpu_session(model: str | bytes, threads: int = 0, arena: bool = True) -> onnxruntime.InferenceSession:
    """Load a model into onnxruntime on the CPU.

    Args:
        model: path, or the serialised model.
        threads: of one operator; 0: one per core.
        arena: keep freed memory for the next call.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 4  # errors are reported by the exceptions
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxSession(Session):
    """An ONNX file in onnxruntime.

    Args:
        path: the file.
        batch, height, width: sizes of dynamic axes of the input.

    Raises:
        UserError: no such file, not an ONNX model, operators that onnxruntime does not have, an input that is not of
            the form (N, 3, H, W), or one that contradicts the requested batch or size.
    """

    def __init__(
        self, path: str | Path, batch: int | None = None, height: int | None = None, width: int | None = None
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"--model {path}: no such file")
        self._session = _open(self.path)
        inputs = self._session.get_inputs()
        self.input_name, shape = inputs[0].name, list(inputs[0].shape)
        if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (3, None) and isinstance(shape[1], int):
            raise UserError(f"{path}: expected one input of the form (N, 3, H, W), found {[i.shape for i in inputs]}")
        self.batch = self._side("batch", shape[0], batch, 1)
        self.height = self._side("height", shape[2], height, None)
        self.width = self._side("width", shape[3], width, None)
        self.outputs = [output.name for output in self._session.get_outputs()]

    def _side(self, what: str, fixed: int | str | None, wanted: int | None, default: int | None) -> int:
        """Size of one axis: of the model, else as requested, else the default."""
        if isinstance(fixed, int):
            if wanted not in (None, fixed):
                raise UserError(f"{self.path} is made for {what} {fixed}, not {wanted}")
            return fixed
        side = wanted or default
        if side is None:
            raise UserError(f"{self.path} takes any {what}: give one with --input-width W --input-height H")
        return side

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch f32 [batch, 3, H, W]."""
        return self._session.run(None, {self.input_name: images})


def _open(path: Path) -> onnxruntime.InferenceSession:
    try:
        return cpu_session(str(path))
    except ImportError:
        raise UserError("running a model without a card needs onnxruntime: pip install onnx onnxruntime") from None
    except Exception as error:  # onnxruntime's own classes have no common public base
        text = str(error)
        custom = [name for name in CANN_ONLY if name in text]
        if custom:
            raise UserError(
                f"{path} has the operator {custom[0]}, which only CANN executes. Convert it "
                "(fcos-train ascend om), or export the same checkpoint with --end nms for onnxruntime"
            ) from None
        raise UserError(f"{path} cannot be loaded by onnxruntime: {text.splitlines()[0][:300]}") from None
