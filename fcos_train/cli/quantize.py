"""``fcos-train quantize``: a checkpoint in, a verified int8 model out; short for ``export --precision int8``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fcos_train.cli.export import ExportArguments
from fcos_train.cli.export import run as export
from fcos_train.config.fields import Option
from fcos_train.deploy.targets import TARGETS


@dataclass(frozen=True)
class QuantizeArguments(ExportArguments):
    """The options of an export, of which target and precision have other defaults and the images are required."""

    target: Annotated[
        str,
        Option("the format to write", choices=tuple(name for name in TARGETS if name != "onnx")),
    ] = "onnx-int8"
    precision: Annotated[str | None, Option("the number type: int8", choices=("int8",), hidden=True)] = "int8"

    def conflicts(self) -> list[str]:
        """As of an export; and images to calibrate with are needed."""
        lacking = ["--data-path is needed: a data set or a folder of images"] if self.data_path is None else []
        return [*lacking, *super().conflicts()]


def run(options: QuantizeArguments) -> int:
    """Write a detector in int8, calibrated with images, with a description in JSON beside it.

    Every map of the head is compared with PyTorch's before the file gets its name; the limit is on the cosine
    similarity. The mAP is measured by fcos-train ascend evaluate --model.
    """
    return export(options)
