"""The options of an export to any target; importing them imports neither torch nor a converter."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

from fcos_train.config.fields import Option, Options, existing, existing_file
from fcos_train.config.options import AllowOutside, OptionalConfig, SafeConfig, TrustCheckpoint
from fcos_train.deploy.onnx.options import ExportOptions, axis_faults, name_faults
from fcos_train.deploy.targets import SUFFIXES, TARGETS, named_by, suffix_of

PRECISIONS = ("fp32", "fp16", "int8")
# Options of ONNX files that the other targets decide themselves, or that their runtimes do not have.
ONNX_ONLY = ("end", "batch", "dynamic", "normalize_in_graph", "output_names", "allow_untrained")
# Options of single targets, with the targets they apply to.
OF_TARGETS: dict[str, tuple[str, ...]] = {
    "optimize_level": ("rdk-x5", "rdk-x3"),
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
            "data set (its training images) or folder of images that int8 is calibrated with, and maps are compared on",
            metavar="DIR",
            default="none",
            check=existing,
        ),
    ] = None
    calibration_images: Annotated[
        int | None, Option("number of images that int8 is calibrated with", metavar="N", default="40", least=1)
    ] = None
    optimize_level: Annotated[
        str | None,
        Option(
            "of the compiler for the boards: O3 is the fastest on the board, O0 compiles in a fifth of the time",
            default="O3",
            choices=("O0", "O1", "O2", "O3"),
        ),
    ] = None
    calibration_method: Annotated[
        str | None,
        Option(
            "range of an activation in onnx-int8: of all values, or without the 0.01 % farthest out",
            default="percentile",
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


@dataclass(frozen=True)
class CompareOptions(Options):
    """Which models to compare, on which data.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    checkpoint: Annotated[str, Option("the weights that were exported", positional=True, check=existing_file)]
    models: Annotated[
        tuple[str, ...],
        Option("exported models, each with its description beside it", metavar="MODEL", positional=True),
    ]
    config: OptionalConfig = None
    data_path: Annotated[
        str | None,
        Option("data set whose validation images give the mAP", metavar="DIR", default="no mAP", check=existing),
    ] = None
    limit: Annotated[int | None, Option("only the first N images", metavar="N", default="all", least=1)] = None
    rounds: Annotated[int, Option("timed calls of every model; 0: no times", metavar="N", least=0)] = 20
    tolerance: Annotated[
        float | None,
        Option("largest difference of the mAPs", metavar="T", default="0.001; fp16 0.003, int8 0.02", least=0),
    ] = None
    trust_checkpoint: TrustCheckpoint = False
    safe_config: SafeConfig = False
    allow_outside: AllowOutside = ()

    def conflicts(self) -> list[str]:
        """No model, or files that are none."""
        faults = [] if self.models else ["give at least one exported model"]
        for name in self.models:
            if named_by(name) is None:
                known = ", ".join(f"*{suffix}" for suffix in (".onnx", *SUFFIXES))
                faults.append(f"{name}: not an exported model; known are {known}")
            elif fault := existing(name):
                faults.append(f"{name}: {fault}")
        if self.limit is not None and self.data_path is None:
            faults.append("--limit is of the images of --data-path, which is not given")
        return faults


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
