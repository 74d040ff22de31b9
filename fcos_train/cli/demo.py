"""``fcos-train demo``: draw the detections of a checkpoint on an image, a folder, a video or a camera."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Annotated

from fcos_train.cli.newest import newest_checkpoint, require_newest
from fcos_train.config.fields import Option, existing
from fcos_train.deploy.targets import named_by
from fcos_train.infer.options import DemoOptions
from fcos_train.weights import COCO, fetch, named, weights_fault
from mmcv_overrides.errors import UserError

# Flags of the demo of detectron2 and AdelaiDet -> ours; its settings come as names and values after --opts.
THEIRS = {"--input": "--img", "--output": "--show-dir", "--confidence-threshold": "--score-thr"}
# The best of mmdet's FCOS with ResNet-50 and no deformable convolutions: box AP 38.7.
DEFAULT = "fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco"
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


def _checkpoint_fault(value: str) -> str | None:
    """Check of an option: a file, the folder of an exported model, an address, or a name of weights."""
    return weights_fault(value) if existing(value) else None


@dataclass(frozen=True)
class DemoArguments(DemoOptions):
    """The options of a demonstration as the command line gives them."""

    checkpoint: Annotated[
        str | None,
        Option(
            "a .pth file, whose config is read from it, an exported model with its description, or a name of "
            "`fcos-train weights`",
            positional=True,
            default="the newest work_dirs/*/latest.pth, else weights trained on COCO",
            check=_checkpoint_fault,
        ),
    ] = None  # type: ignore[assignment]

    def settled(self) -> DemoOptions:
        """The checkpoint found where none was given: the newest own one, else weights trained on COCO.

        Raises:
            UserError: there is none of our own, and those weights are not available.
        """
        values = {field.name: getattr(self, field.name) for field in fields(DemoOptions)}
        given = self.checkpoint
        if given is None and newest_checkpoint() is not None:
            values["checkpoint"] = require_newest()
        elif given is None or not (Path(given).exists() or "://" in given):
            _require_source(self.img)
            values |= _by_name(given, self.config)
        return DemoOptions(**values)


def _require_source(img: str | None) -> None:
    """Refuse an input that does not exist, before weights are downloaded for it; a camera is opened later.

    Raises:
        UserError: there is no such file, folder or pattern.
    """
    from fcos_train.infer.sources import open_source

    if img is not None and not img.isdigit() and "://" not in img:
        open_source(img)


def _by_name(name: str | None, config: str | None) -> dict[str, str | None]:
    """Checkpoint and config of weights of the index; without a name, of those that know COCO's 80 classes."""
    if name is None:
        print(f"no checkpoint given, and none in work_dirs/: {DEFAULT}, trained on COCO's 80 classes")
    found = named(DEFAULT if name in (None, COCO) else str(name))
    return {"checkpoint": str(fetch(found, print)), "config": config or found.config or None}


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
