"""Writes `.rknn` files for Rockchip NPUs, and runs what they were compiled from in the toolkit's simulator."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.deploy.parts.blobs import FLOAT16, INT8
from fcos_train.deploy.parts.calibration import inputs
from fcos_train.deploy.parts.description import rule_of
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.target import Conversion, Target
from fcos_train.deploy.parts.worker import Worker, WorkerFailed
from fcos_train.deploy.rknn.calls import KEPT
from mmcv_overrides.errors import UserError

VARIABLE = "FCOS_RKNN_TOOLCHAIN"
DEFAULT = Path("~/.cache/fcos-train/rknn")
CALLS = Path(__file__).with_name("calls.py")
INT8_ONLY = ("rv1103", "rv1103b", "rv1106", "rv1106b")


def toolchain() -> Path:
    """The Python of the toolkit's environment.

    Raises:
        UserError: there is none.
    """
    given = os.environ.get(VARIABLE)
    python = (Path(given) if given else DEFAULT).expanduser() / "bin" / "python"
    if not python.is_file():
        raise UserError(
            f"--target rknn needs Rockchip's toolkit in an environment of its own, and {python} does not exist: "
            f"bash scripts/setup_rknn_toolchain.sh [FOLDER] installs it ({VARIABLE}=FOLDER names another folder)"
        )
    return python


class Rknn(Target):
    """``--target rknn``."""

    name, suffix = "rknn", ".rknn"
    opset = 11
    precisions = ("fp16", "int8")
    limits = {"fp16": FLOAT16, "int8": INT8}

    def require(self) -> None:
        """Refuse to begin without the toolkit."""
        toolchain()

    def convert(self, job: Conversion) -> None:
        """Compile; the files that the simulator builds from are kept beside the result."""
        chip, int8 = job.settings.get("chip", "rk3588"), job.precision == "int8"
        if chip in INT8_ONLY and not int8:
            raise UserError(f"--chip {chip} computes in int8 only: add --precision int8 --data-path DIR")
        job.description["rknn"] = {
            "chip": chip,
            "int8": int8,
            "input": "u8 pixels [1, H, W, 3] in the channel order of `input`; the model normalises them itself",
        }
        rule = rule_of(job.description)
        pixels = [_pixels(image, rule.mean, rule.std) for image in inputs(job)] if int8 else []
        with _worker() as worker:
            _call(worker, "compile", pixels, onnx=str(job.onnx.absolute()), **_arguments(job.output, job.description))
        job.description["rknn"]["sha256"] = _sha256(job.output)

    def open(self, path: Path, description: Mapping[str, Any]) -> Session:
        """The simulator, with the model that the file was compiled from."""
        return SimulatorSession(path, description)

    def files(self, path: Path) -> list[Path]:
        """The file for the board, and what the simulator builds from."""
        return [path, *(file for file in (_kept(path, suffix) for suffix in (".onnx", *KEPT)) if file.is_file())]

    def next_steps(self, path: Path) -> list[str]:
        """Which files go to the board."""
        return [
            f"to the board: {path.name}, {path.name}.json and fcos_train/deploy/decoder (numpy only)",
            "the maps were computed by the toolkit's simulator from what the .rknn file was compiled from; the file "
            "itself runs on a board only",
        ]


class SimulatorSession(Session):
    """A compiled model in the simulator of rknn-toolkit2, which takes pixels.

    Args:
        path: the `.rknn` file. description: of the export.

    Raises:
        UserError: the file is not the exported one, one that the simulator builds from is missing, or the toolkit is.
    """

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        self.path, self.batch = path, 1
        self.height, self.width = description["input"]["example_shape"]
        self.outputs = [entry["name"] for entry in description["outputs"]]
        own = description.get("rknn")
        if not isinstance(own, dict):
            raise UserError(f"{path}: its description is not of --target rknn")
        if _sha256(path) != own["sha256"]:
            raise UserError(f"{path} is not the file that was exported (truncated or replaced): export it again")
        suffixes = KEPT if own["int8"] else (".onnx",)
        missing = [_kept(path, suffix).name for suffix in suffixes if not _kept(path, suffix).is_file()]
        if missing:
            raise UserError(
                f"{path} lacks {', '.join(missing)} beside it: the simulator cannot read a .rknn file, it builds the "
                "model again from what the export kept (copy all files of the export)"
            )
        rule = rule_of(description)
        self._mean, self._std = rule.mean, rule.std
        self._worker = _worker()
        _call(self._worker, "simulate", [], **_arguments(path, description))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch f32 [1, 3, H, W]."""
        outputs = _call(self._worker, "run", [_pixels(images, self._mean, self._std)])
        if len(outputs) != len(self.outputs):
            raise UserError(f"{self.path} has {len(outputs)} outputs, its description {len(self.outputs)}")
        return outputs


def _kept(path: Path, suffix: str) -> Path:
    """A file that the simulator builds from."""
    return path.with_name(path.name + suffix)


def _arguments(path: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """What the calls need to know of a model."""
    rule, own = rule_of(description), description["rknn"]
    return {
        "base": str(path.absolute()),
        "chip": own["chip"],
        "mean": list(rule.mean),
        "std": list(rule.std),
        "int8": own["int8"],
    }


def _pixels(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Undo the normalisation, which the compiled model does itself."""
    scale, shift = (np.asarray(values, np.float32).reshape(1, 3, 1, 1) for values in (std, mean))
    return images * scale + shift


def _worker() -> Worker:
    return Worker(toolchain(), CALLS, "rknn-toolkit2")


def _call(worker: Worker, name: str, arrays: list[np.ndarray], **values: Any) -> list[np.ndarray]:
    """Call the toolkit; its own error lines become part of the message."""
    try:
        return worker.call(name, arrays, **values)[1]
    except WorkerFailed as error:
        said = [line for line in worker.printed() if line.startswith("E ")]
        raise UserError(f"{error}{''.join(f'; {line[2:].strip()[:200]}' for line in said[-2:])}") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
