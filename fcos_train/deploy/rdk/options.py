"""The options of the commands for RDK boards; importing them imports neither torch nor OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import TRUTHS, Option, Options, existing_file
from mmcv_overrides.errors import UserError


def _truth(words: Sequence[str]) -> bool:
    """`True` and `False`, which the vendor's program reads as True both."""
    value = TRUTHS.get(words[0].lower()) if len(words) == 1 else None
    if value is None:
        raise UserError(f"--is-stride {' '.join(words)}: write True or False")
    return value


def _strides(words: Sequence[str]) -> tuple[int, ...]:
    """`8,16,32`, or the numbers one by one."""
    return _numbers("--strides", words)


def _cores(words: Sequence[str]) -> tuple[int, ...]:
    return _numbers("--bpu-cores", words)


def _numbers(flag: str, words: Sequence[str]) -> tuple[int, ...]:
    text = " ".join(words).replace(",", " ").split()
    if not text or not all(word.isdecimal() for word in text):
        raise UserError(f"{flag} {' '.join(words)}: give numbers with commas, such as 8,16,32")
    return tuple(map(int, text))


def _positive(value: int) -> str | None:
    return None if value > 0 else "must be at least 1"


@dataclass(frozen=True)
class RdkDemoOptions(Options):
    """What to run on what: the flags of the vendor's program.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    model_path: Annotated[
        str,
        Option(
            "file of an export to rdk-x5 or rdk-x3: .bin (on a PC its quantised form runs), .yaml, or .onnx",
            metavar="FILE",
        ),
    ] = "models/fcos_512x512_nv12.bin"
    test_img: Annotated[str, Option("image to read", metavar="FILE")] = "../../../datasets/coco/assets/bus.jpg"
    img_save_path: Annotated[str, Option("image to write", metavar="FILE")] = "jupyter_result.jpg"
    classes_num: Annotated[
        int | None, Option("number of classes", metavar="N", default="the description's, else 80", least=1)
    ] = None
    iou_thres: Annotated[float, Option("IoU above which a box is suppressed", metavar="T", least=0, most=1)] = 0.6
    conf_thres: Annotated[float, Option("smallest score", metavar="S", least=0, most=1)] = 0.5
    is_stride: Annotated[
        bool | None,
        Option(
            "distances are in strides (X5: True; the vendor's models for X3: False)",
            metavar="True|False",
            default="the description's, else True",
            bare="True",
            parse=_truth,
        ),
    ] = None
    strides: Annotated[
        tuple[int, ...] | None,
        Option(
            "strides of the levels, with commas",
            metavar="S,S,...",
            default="the description's, else 8,16,32,64,128",
            check=_positive,
            parse=_strides,
        ),
    ] = None
    resize_type: Annotated[
        int | None,
        Option("0: stretch, 1: letterbox with grey", metavar="0|1", default="as trained, else 0", least=0, most=1),
    ] = None
    label_file: Annotated[
        str | None,
        Option(
            "class names, one a line", metavar="FILE", default="the description's, else COCO's", check=existing_file
        ),
    ] = None
    priority: Annotated[int, Option("of the tasks on the board", metavar="N", least=0, most=255)] = 0
    bpu_cores: Annotated[
        tuple[int, ...],
        Option("cores of the BPU, with commas", metavar="N,N", default="the runtime's choice", parse=_cores),
    ] = ()


@dataclass(frozen=True)
class BoardFolderOptions(Options):
    """Which model goes to a board.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    folder: Annotated[str, Option("the folder to write", metavar="FOLDER", positional=True)]
    model: Annotated[str, Option("the .bin file of an export to rdk-x5 or rdk-x3", metavar="FILE", check=existing_file)]


@dataclass(frozen=True)
class TableOptions(Options):
    """Which model to tell about.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    model: Annotated[str, Option("the .bin file of an export to rdk-x5 or rdk-x3", metavar="FILE", positional=True)]
    board_logs: Annotated[
        tuple[str, ...],
        Option(
            "saved outputs of hrt_model_exec model_info or perf on a board",
            metavar="FILE",
            default="none",
            flags=("--hrt",),
            check=existing_file,
        ),
    ] = ()
    nodes: Annotated[bool, Option("print every node, not only the least similar ones")] = False
