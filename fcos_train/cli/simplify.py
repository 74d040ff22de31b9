"""``fcos-train simplify``: an exported ONNX file with fewer nodes and the same values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fcos_train.config.fields import Option, Options, existing_file


@dataclass(frozen=True)
class SimplifyOptions(Options):
    """What to simplify."""

    model: Annotated[Path, Option("ONNX file of fcos-train export", positional=True, check=existing_file)]
    output: Annotated[Path, Option("ONNX file to write", positional=True)]

    def conflicts(self) -> list[str]:
        """The name of the file to write."""
        faults = [] if self.output.suffix == ".onnx" else [f"output {self.output}: must end in .onnx"]
        return faults + ([f"output {self.output} is the file to simplify"] if self.output == self.model else [])


def run(options: SimplifyOptions) -> int:
    """Simplify an exported ONNX file with onnxslim.

    Some converters need it. The result is run beside the original, and is only written if the values are the same.
    """
    from fcos_train.deploy.onnx.simplify import simplify

    simplify(options.model, options.output)
    return 0
