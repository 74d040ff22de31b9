"""The options of an export to any target; importing them imports neither torch nor a converter."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

from fcos_train.config.fields import Option, existing
from fcos_train.deploy.onnx.options import ExportOptions, axis_faults, name_faults
from fcos_train.deploy.targets import TARGETS, named_by, suffix_of

PRECISIONS = ("fp32", "fp16", "int8")
# Options of ONNX files that the other targets decide themselves, or that their runtimes do not have.
ONNX_ONLY = ("end", "batch", "dynamic", "normalize_in_graph", "output_names", "allow_untrained")
# Options of single targets, with the targets they apply to.
OF_TARGETS: dict[str, tuple[str, ...]] = {
    "calibration_method": ("onnx-int8",),
    "chip": ("rknn",),
    "dry_run": ("tensorrt",),
}
# Of rknn-toolkit2 2.5.0. Older chips (rk1808, rv1109, rv1126) are compiled for by its predecessor.
ROCKCHIPS = (
    "rk3588", "rk3576", "rk3568", "rk3566", "rk3562", "rv1126b", "rv1106", "rv1106b", "rv1103", "rv1103b", "rk2118",
)  # fmt: skip
# Options that only a target other than onnx has.
CONVERTED = ("precision", "data_path", "calibration_images")


@dataclass(frozen=True)
class TargetOptions(ExportOptions):
    """What to export, to which format.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    target: Annotated[
        str, Option("the format to write; all but onnx are converted from a verified ONNX file", choices=TARGETS)
    ] = "onnx"
    precision: Annotated[
        str | None,
        Option("of the weights (int8: and of the activations)", default="the target's", choices=PRECISIONS),
    ] = None
    data_path: Annotated[
        str | None,
        Option(
            "data set (its training images) or folder of images that int8 is calibrated with",
            metavar="DIR",
            default="none",
            check=existing,
        ),
    ] = None
    calibration_images: Annotated[
        int | None, Option("number of images that int8 is calibrated with", metavar="N", default="40", least=1)
    ] = None
    calibration_method: Annotated[
        str | None,
        Option(
            "range of an activation in onnx-int8: of all values, or without the 0.01 % farthest out",
            default="minmax",
            choices=("minmax", "percentile"),
        ),
    ] = None
    chip: Annotated[str | None, Option("Rockchip chip that rknn compiles for", default="rk3588", choices=ROCKCHIPS)] = (
        None
    )

    dry_run: Annotated[
        bool, Option("write everything up to the command of a tool that may be missing here, and do not run it")
    ] = False

    def conflicts(self) -> list[str]:
        """Axes that the end cannot leave open, options that the target does not have, and another file's name."""
        return [*axis_faults(self.end, self.dynamic), *target_faults(self)]


def target_faults(options: Any) -> list[str]:
    """Options that were given and that the target does not have, and an output with another suffix."""
    defaults = {field.name: field.default for field in fields(TargetOptions)}
    given = {name for name, default in defaults.items() if getattr(options, name) != default}
    if options.target == "onnx":
        foreign = [name for name in (*CONVERTED, *OF_TARGETS) if name in given]
        faults = [f"{_flag(name)} applies to other targets than onnx: give --target" for name in foreign]
        owner = named_by(options.output) if options.output else None
        if owner not in (None, "onnx"):
            faults.append(f"--output-file {options.output}: files of this name belong to --target {owner}")
            return faults
        return faults + name_faults(options.output)
    own = [name for name, targets in OF_TARGETS.items() if options.target in targets]
    foreign = [name for name in (*ONNX_ONLY, *OF_TARGETS) if name in given and name not in own]
    faults = [f"{_flag(name)} does not apply to --target {options.target}" for name in foreign]
    return faults + name_faults(options.output, suffix_of(options.target))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
