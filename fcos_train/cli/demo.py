"""``fcos-train demo``: draw the detections of a checkpoint on an image, a folder, a video or a camera."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from typing import Annotated

from fcos_train.cli.newest import require_newest
from fcos_train.config.fields import Option, existing
from fcos_train.deploy.targets import named_by
from fcos_train.infer.options import DemoOptions
from mmcv_overrides.errors import UserError

# Flags of the demo of detectron2 and AdelaiDet -> ours; its settings come as names and values after --opts.
THEIRS = {"--input": "--img", "--output": "--show-dir", "--confidence-threshold": "--score-thr"}
MARKS = ("--config-file", "--opts")


def require_own(words: Sequence[str]) -> None:
    """Answer the command line of detectron2's or AdelaiDet's demo with the same command here.

    Raises:
        UserError: it is one; the message has the command.
    """
    if not any(word in MARKS for word in words):
        return
    given = {flag: _values(words, flag) for flag in (*THEIRS, "--opts")}
    settings = dict(zip(given["--opts"][::2], given["--opts"][1::2], strict=False))
    command = ["fcos-train", "demo", settings.get("MODEL.WEIGHTS", "WEIGHTS.pth")]
    for theirs, ours in THEIRS.items():
        command += [ours, given[theirs][0]] if given[theirs] else []
    command += ["--device", settings["MODEL.DEVICE"]] if "MODEL.DEVICE" in settings else []
    raise UserError(
        f"--config-file and --opts are of detectron2's demo. The same here: {shlex.join(command)} (depth, norm and "
        "classes of the model are read from the weights)"
    )


def _values(words: Sequence[str], flag: str) -> list[str]:
    """The words after a flag, up to the next one."""
    after = list(words[words.index(flag) + 1 :]) if flag in words else []
    return list(takewhile(lambda word: not word.startswith("--"), after))


@dataclass(frozen=True)
class DemoArguments(DemoOptions):
    """The options of a demonstration as the command line gives them."""

    checkpoint: Annotated[
        str | None,
        Option(
            "a .pth file, whose config is read from it, or an exported model with its description",
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
    if named_by(settled.checkpoint) is None:
        from fcos_train.infer.demo import demo

        demo(settled)
    else:
        from fcos_train.deploy.artefact import demo_exported

        demo_exported(settled)
    return 0
