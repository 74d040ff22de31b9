"""``fcos-train serve``: a web page and an HTTP interface for a model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from fcos_train.cli.newest import require_newest
from fcos_train.config.fields import Option, existing
from fcos_train.serve.options import ServeOptions


@dataclass(frozen=True)
class ServeArguments(ServeOptions):
    """The options of the server as the command line gives them."""

    checkpoint: Annotated[
        str | None,
        Option(
            "a .pth file, whose config is read from it, or an exported model with its description",
            positional=True,
            default="the newest work_dirs/*/latest.pth",
            check=existing,
        ),
    ] = None  # type: ignore[assignment]

    def settled(self) -> ServeOptions:
        """The checkpoint found where none was given.

        Raises:
            UserError: there is none.
        """
        values = {field.name: getattr(self, field.name) for field in fields(ServeOptions)}
        return ServeOptions(**{**values, "checkpoint": self.checkpoint or require_newest()})


def run(options: ServeArguments) -> int:
    """Serve a checkpoint or an exported model as a web page, and over HTTP, on this machine.

    The page takes images, a camera and videos. POST /predict takes an image and returns its detections as JSON.
    """
    settled = options.settled()
    from fcos_train.serve.server import serve

    serve(settled)
    return 0
