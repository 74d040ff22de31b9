"""The command line of the demonstration on a board, where the rest of the product is not installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .demo import Settings, run
from .nv12 import BoardError

USUAL = Settings()
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


def main(words: Sequence[str] | None = None) -> int:
    """Run the demonstration; 0 done, 2 an error of the user's (one line on stderr)."""
    given = vars(_parser().parse_args(words))
    try:
        run(Settings(**given))
    except (BoardError, ValueError) as error:  # the decoder's errors are ValueErrors too
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def truth(text: str) -> bool:
    """`True`, `False` and their usual spellings."""
    if text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    raise argparse.ArgumentTypeError(f"write True or False, not {text!r}")


def numbers(text: str) -> tuple[int, ...]:
    """`8,16,32`: positive numbers."""
    try:
        found = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"give numbers with commas, such as 8,16,32, not {text!r}") from None
    if any(number < 0 for number in found):
        raise argparse.ArgumentTypeError(f"{text!r} has a negative number")
    return found


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, not {text!r}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Detect the objects of one image with FCOS on an RDK board.")
    add = parser.add_argument
    add("--model-path", default=USUAL.model_path, help="a .bin file")
    add("--test-img", default=USUAL.test_img, help="image to read")
    add("--img-save-path", default=USUAL.img_save_path, help="image to write")
    add("--classes-num", type=int, help="number of classes (default: the description's, else 80)")
    add("--iou-thres", type=share, default=USUAL.iou_thres, help="IoU above which a box is suppressed")
    add("--conf-thres", type=share, default=USUAL.conf_thres, help="smallest score")
    add("--is-stride", type=truth, help="distances are in strides (default: the description's, else True)")
    add("--strides", type=numbers, help="of the levels (default: the description's, else 8,16,32,64,128)")
    add("--resize-type", type=int, choices=(0, 1), help="0 stretch, 1 letterbox (default: as trained, else 0)")
    add("--label-file", help="class names, one a line")
    add("--priority", type=int, default=USUAL.priority, help="of the tasks, 0 to 255")
    add("--bpu-cores", type=numbers, default=USUAL.bpu_cores, help="BPU cores")
    return parser
