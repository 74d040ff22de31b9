"""The options of an export to ONNX; importing them imports neither torch nor onnx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fcos_train.config.fields import Option, Options, existing, square
from fcos_train.config.options import CfgOptions, OptionalConfig, SafeConfig, TrustCheckpoint
from fcos_train.deploy.onnx.ends import ENDS, FIXED_SIZE

AXES = ("batch", "height", "width")
OPSETS = range(11, 21)
SMALLEST_SIDE = 32  # px


def name_faults(output: str | None, suffix: str = ".onnx") -> list[str]:
    """The vendors' tools recognise a model by its suffix."""
    return [] if output is None or output.endswith(suffix) else [f"--output-file {output}: must end in {suffix}"]


def _not_zero(value: float) -> str | None:
    return "a std must not be 0" if value == 0 else None


def _below_one(value: float) -> str | None:
    return None if 0 <= value < 1 else "must be between 0 and 1, and not 1"


def axis_faults(end: str, dynamic: Sequence[str]) -> list[str]:
    """Dynamic axes that a graph with this end cannot have."""
    if end in FIXED_SIZE and {"height", "width"} & set(dynamic):
        return [f"--end {end} needs a fixed height and width (the device compiles for fixed shapes)"]
    return []


End = Annotated[
    str,
    Option(
        "outputs of the graph: raw: maps of each level; decoded: boxes and scores; nms: detections and labels; "
        "ascend: the same with Ascend's operators, for atc",
        metavar="END",
        choices=ENDS,
    ),
]
Shape = Annotated[
    tuple[int, int] | None,
    Option(
        "input size in px; one number is a square",
        metavar="H [W]",
        default="the test pipeline's, 800 1216 for COCO's",
        least=SMALLEST_SIDE,
        expected="give height and width, or one number for a square",
        parse=square,
    ),
]


@dataclass(frozen=True)
class ExportOptions(Options):
    """What to export.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    checkpoint: Annotated[str, Option("the weights", positional=True)]
    config: OptionalConfig = None
    end: End = "nms"
    output: Annotated[
        str | None,
        Option(
            "the file to write",
            metavar="FILE",
            default="<checkpoint>_<end>.onnx in the current folder",
            flags=("--output-file",),
        ),
    ] = None
    shape: Shape = None
    batch: Annotated[int, Option("images per input", metavar="N", least=1)] = 1
    dynamic: Annotated[tuple[str, ...], Option("dynamic axes", metavar="AXIS", default="none", choices=AXES)] = ()
    opset: Annotated[
        int | None,
        Option(
            "ONNX opset, 11 to 20",
            metavar="N",
            default="17; 19 with deformable convolution; 11 for ascend",
            flags=("--opset", "--opset-version"),
            least=OPSETS[0],
            most=OPSETS[-1],
        ),
    ] = None
    usual_opset: Annotated[
        int | None,
        Option("replaces the default of --opset; raised if the graph needs more", metavar="N", hidden=True),
    ] = None
    normalize_in_graph: Annotated[
        bool, Option("the graph takes raw BGR pixels, 0 to 255, and normalises them itself")
    ] = False
    input_img: Annotated[
        str | None,
        Option(
            "image or folder to verify with",
            metavar="FILE|DIR",
            default="validation images, else generated ones",
            flags=("--input-img", "--test-img"),
            check=existing,
        ),
    ] = None
    score_thr: Annotated[
        float | None, Option("score threshold", metavar="S", default="the config's", check=_below_one)
    ] = None
    mean: Annotated[
        tuple[float, float, float] | None,
        Option("mean of each channel", metavar="M M M", default="the config's", expected="three numbers are needed"),
    ] = None
    std: Annotated[
        tuple[float, float, float] | None,
        Option(
            "std of each channel",
            metavar="S S S",
            default="the config's",
            expected="three numbers are needed",
            check=_not_zero,
        ),
    ] = None
    output_names: Annotated[
        tuple[str, str], Option("names of the two outputs of nms and ascend", metavar="DETS LABELS")
    ] = ("dets", "labels")
    allow_untrained: Annotated[
        bool,
        Option("for weights that are not trained: where detections differ at ties, compare the maps instead"),
    ] = False
    trust_checkpoint: TrustCheckpoint = False
    safe_config: SafeConfig = False
    cfg_options: CfgOptions = field(default_factory=dict)

    def conflicts(self) -> list[str]:
        """Axes that the end cannot leave open, and a file name that is not of ONNX."""
        return [*axis_faults(self.end, self.dynamic), *name_faults(self.output)]
