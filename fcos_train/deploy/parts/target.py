"""What a target of the export is: the package of one vendor's format implements :class:`Target`."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.deploy.parts.blobs import Limits
from fcos_train.deploy.parts.session import Session
from mmcv_overrides.errors import UserError


@dataclass(frozen=True)
class Conversion:
    """One conversion.

    Attributes:
        onnx: a verified ONNX file with the end that the target asks for.
        description: of that file.
        output: the main file to write; it lies in an empty folder, all other files go beside it.
        precision: one of the target's.
        calibration: returns up to the given number of training images u8 [h, w, 3] BGR; for int8.
        settings: options of the target, by name; only those that were given.
        say: prints a line.
    """

    onnx: Path
    description: dict[str, Any]
    output: Path
    precision: str
    calibration: Callable[[int], Sequence[np.ndarray]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = print

    def say_float(self, kept: Sequence[str]) -> None:
        """Say which convolutions were left in float32, if any."""
        if kept:
            self.say(
                f"note: {len(kept)} convolutions stay float32, because {self.precision} would change them too much: "
                + ", ".join(kept)
            )


class Target(ABC):
    """A format to which a verified ONNX file is converted.

    Attributes:
        name: of the target, as in ``--target``.
        suffix: of the main file, by which it is recognised.
        end: of the ONNX file that is converted.
        opset: of that file; None: the default of the end.
        precisions: that it can write, the default first.
        packages: import names that it needs, with the name under which pip knows them.
        extra: the extra of this project that installs them.
        limits: precision -> how far the maps may be from PyTorch's.
    """

    name: str
    suffix: str
    end = "raw"
    opset: int | None = None
    precisions: tuple[str, ...] = ("fp32",)
    packages: Mapping[str, str] = {}
    extra = ""
    limits: Mapping[str, Limits]

    def require(self) -> None:
        """Refuse to begin without the packages that the conversion or the session needs.

        Raises:
            UserError: one is missing; the message has the line that installs it.
        """
        missing = [pip for name, pip in self.packages.items() if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"--target {self.name} needs {' and '.join(missing)}: pip install "
                + (f"'fcos-train[{self.extra}]'" if self.extra else " ".join(missing))
            )

    def file_name(self, stem: str, precision: str) -> str:
        """Name of the main file where the user gives none."""
        return f"{stem}{self.suffix}" if precision in self.suffix else f"{stem}_{precision}{self.suffix}"

    def calibrates(self, precision: str) -> bool:
        """Whether a conversion to this precision needs images."""
        return precision == "int8"

    def early_faults(self, model: Any, shape: tuple[int, int]) -> list[str]:
        """What the target cannot represent in a model or at an input size, each with the cure; before the ONNX export.

        Args:
            model: the mmdet detector. shape: height and width of the input in px.
        """
        return []

    def faults(self, description: Mapping[str, Any], model: Any) -> list[str]:
        """What in the model the target cannot represent, each with the cure; known before anything is converted.

        Args:
            description: of the ONNX export.
            model: the mmdet detector.
        """
        return []

    @abstractmethod
    def convert(self, job: Conversion) -> None:
        """Write the main file ``job.output`` and the files that belong to it, of which each name begins with its stem.

        Raises:
            UserError: the conversion failed; with what the converter said.
        """

    @abstractmethod
    def open(self, path: Path, description: Mapping[str, Any]) -> Session:
        """A session on the main file that returns the maps in the order and layout of the description.

        Raises:
            UserError: a missing, truncated or foreign file, or a runtime that is not installed.
        """

    def written(self, path: Path) -> Path:
        """The main file that was written for the one that was asked for, where a converter is missing."""
        return path

    def files(self, path: Path) -> list[Path]:
        """The files of an artefact, the main file first."""
        return [path]

    def unfinished(self, path: Path) -> str | None:
        """Why the main file was not written, where the last step needs what this machine lacks; None if it was."""
        return None

    def commands(self, path: Path) -> Path:
        """The script with the last step of an unfinished conversion."""
        return path

    def next_steps(self, path: Path) -> list[str]:
        """Lines that are printed after a conversion: how the files are used."""
        return []
