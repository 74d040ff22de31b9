"""``fcos-train demo``: draw the detections of a checkpoint on an image, a folder, a video or a camera."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from fcos_train.cli.newest import require_newest
from fcos_train.config.fields import Option, existing
from fcos_train.infer.options import DemoOptions


@dataclass(frozen=True)
class DemoArguments(DemoOptions):
    """The options of a demonstration as the command line gives them."""

    checkpoint: Annotated[
        str | None,
        Option(
            "a .pth file; its config is read from it",
            positional=True,
            default="the newest work_dirs/*/latest.pth",
            check=existing,
        ),
    ] = None  # type: ignore[assignment]

    def settled(self) -> DemoOptions:
        """The checkpoint found where none was given.

        Raises:
            UserError: there is none.
        """
        values = {field.name: getattr(self, field.name) for field in fields(DemoOptions)}
        values["checkpoint"] = self.checkpoint or require_newest()
        return DemoOptions(**values)


def run(options: DemoArguments) -> int:
    """Detect objects in an image, a folder of images, a video or a camera, and draw them with class name and score.

    Writes <name>_pred.jpg (or a video) into --show-dir.
    """
    settled = options.settled()
    from fcos_train.infer.demo import demo

    demo(settled)
    return 0
