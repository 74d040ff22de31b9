"""``fcos-train export``: a checkpoint in, a verified model out, as ONNX or in the format of another target."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fcos_train.cli.newest import require_newest
from fcos_train.config.fields import Option, existing
from fcos_train.deploy.onnx.options import AXES, axis_faults
from fcos_train.deploy.options import TargetOptions, target_faults
from mmcv_overrides.errors import UserError

if TYPE_CHECKING:
    from fcos_train.deploy.convert import Converted
    from fcos_train.deploy.onnx.export import Exported

DEFAULT = Path("work_dirs/fcos_r50_caffe_fpn_4x4_1x_coco/latest.pth")
# Flags of mmdet 2.x that need nothing here: field -> what is said.
WITHOUT_EFFECT = {
    "verify": "the file is always verified",
    "simplify": "there is nothing left to simplify",
    "show": "images are drawn by fcos-train demo",
    "view": "look at the file with any ONNX viewer",
}
_OLD = Option("accepted for scripts of mmdet 2.x", hidden=True)


@dataclass(frozen=True)
class ExportArguments(TargetOptions):
    """The options of an export as the command line gives them, also in the words of mmdet 2.x."""

    checkpoint: Annotated[
        str | None, Option("the same as the positional CHECKPOINT", metavar="CKPT", hidden=True, check=existing)
    ] = None  # type: ignore[assignment]
    files: Annotated[
        tuple[str, ...],
        Option(
            f"the .pth file, and a config if it has none, in either order (default: {DEFAULT}, else the newest "
            "work_dirs/*/latest.pth)",
            metavar="[CONFIG] [CHECKPOINT]",
            positional=True,
        ),
    ] = ()
    dynamic_export: Annotated[bool, Option(f"the same as --dynamic {' '.join(AXES)}")] = False
    verify: Annotated[bool, _OLD] = False
    simplify: Annotated[bool, _OLD] = False
    show: Annotated[bool, _OLD] = False
    view: Annotated[bool, _OLD] = False
    dataset: Annotated[str | None, _OLD] = None

    def conflicts(self) -> list[str]:
        """Files that do not fit together, and axes that the end cannot leave open."""
        dynamic = AXES if self.dynamic_export else self.dynamic
        return [*_file_faults(self.files, self.config), *axis_faults(self.end, dynamic), *target_faults(self)]

    def settled(self) -> TargetOptions:
        """Config and checkpoint told apart, the checkpoint found where none was given.

        Raises:
            UserError: there is no checkpoint.
        """
        configs, checkpoints = _told_apart(self.files)
        values = {field.name: getattr(self, field.name) for field in fields(TargetOptions)}
        values["config"] = self.config or (configs[0] if configs else None)
        values["checkpoint"] = checkpoints[0] if checkpoints else self.checkpoint or _default_checkpoint()
        if self.dynamic_export:
            values["dynamic"] = AXES
        return TargetOptions(**values)


def run(options: ExportArguments) -> int:
    """Write a detector as ONNX or in the format of another target, with a description in JSON beside it.

    The model is run beside PyTorch on at least two images before it gets its name; files whose outputs differ are kept
    as *.failed.*.
    """
    exported(options)
    return 0


def exported(options: ExportArguments) -> Exported | Converted:
    """:func:`run`, with what was written.

    Raises:
        UserError: a fault in the options, the checkpoint or the data, or outputs that differ.
    """
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    for name, answer in WITHOUT_EFFECT.items():
        if getattr(options, name):
            print(f"note: --{name} has no effect: {answer}")
    settled = options.settled()
    if settled.target != "onnx":
        from fcos_train.deploy.convert import convert

        return convert(settled)
    from fcos_train.deploy.onnx.export import export

    return export(settled)


def _told_apart(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Configs and checkpoints among the positional arguments; the name of a shipped config needs no suffix."""
    configs = [name for name in names if name.endswith(".py")]
    checkpoints = [name for name in names if not name.endswith(".py")]
    return (checkpoints[:1], checkpoints[1:]) if len(checkpoints) == 2 else (configs, checkpoints)


def _file_faults(names: tuple[str, ...], config: str | None) -> list[str]:
    if len(names) > 2:
        return [f"unexpected argument '{names[2]}': give a config and a checkpoint"]
    configs, checkpoints = _told_apart(names)
    configs += [config] if config else []
    faults = [f"two configs are given: {' and '.join(configs)}"] if len(configs) > 1 else []
    return faults + [f"{name}: {fault}" for name in checkpoints if (fault := existing(name))]


def _default_checkpoint() -> str:
    """The checkpoint that is meant when none is named."""
    if DEFAULT.is_file():
        return str(DEFAULT)
    return require_newest()
