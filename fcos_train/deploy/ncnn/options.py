"""The options of ``fcos-train ncnn-demo``; importing them imports neither ncnn nor torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fcos_train.config.fields import Option, Options

# Of the classic program: how many words it accepts, and what it takes where they end.
COUNTS = (1, 3, 5, 6, 7)
DEFAULTS = ("", "net.param", "net.bin", "512", "640", "0.5", "0.6")
NAMES = ("IMAGE", "PARAM", "BIN", "H", "W", "CLS_THR", "IOU_THR")
USAGE = "IMAGE [PARAM BIN [H W [CLS_THR [IOU_THR]]]]"
LISTS = (".lst", ".txt")


@dataclass(frozen=True)
class NcnnDemoOptions(Options):
    """What to detect, with which network.

    Raises:
        UserError: another number of words, or invalid values; all are reported in one message.
    """

    words: Annotated[
        tuple[str, ...],
        Option(
            "image, or a .lst or .txt file with one image per line; the two files of the network (default net.param "
            "net.bin); height and width of the input (512 640); threshold of the class probability (0.5); IoU of the "
            "suppression (0.6)",
            metavar=USAGE,
            positional=True,
        ),
    ] = field(default=())
    original: Annotated[bool, Option("print coordinates of the image instead of the network input")] = False
    show_dir: Annotated[
        str | None, Option("folder for the images with the detections drawn", metavar="DIR", default="none")
    ] = None
    maps: Annotated[
        str | None,
        Option("file for the maps of the image, as examples/ncnn/fcos.cpp reads them", metavar="FILE", default="none"),
    ] = None

    def conflicts(self) -> list[str]:
        """A wrong number of words, or words that are not what their place asks for."""
        if len(self.words) not in COUNTS:
            counts = f"{', '.join(map(str, COUNTS[:-1]))} or {COUNTS[-1]}"
            return [f"give {counts} words, not {len(self.words)}: {USAGE}"]
        values = self._filled()
        sides = [
            f"{name} {word}: must be a whole number above 0"
            for name, word in zip(NAMES[3:5], values[3:5])
            if not (word.isdecimal() and int(word))
        ]
        thresholds = [
            f"{name} {word}: must be a number between 0 and 1"
            for name, word in zip(NAMES[5:], values[5:])
            if not _is_fraction(word)
        ]
        several = ["--maps is for one image, not for a list"] if self.maps and self.is_list else []
        return sides + thresholds + several

    def _filled(self) -> Sequence[str]:
        return (*self.words, *DEFAULTS[len(self.words) :])

    @property
    def image(self) -> Path:
        """The image, or the list of images."""
        return Path(self.words[0])

    @property
    def files(self) -> tuple[Path, Path]:
        """Graph and weights of the network."""
        return Path(self._filled()[1]), Path(self._filled()[2])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network input in pixels."""
        return int(self._filled()[3]), int(self._filled()[4])

    @property
    def thresholds(self) -> tuple[float, float]:
        """Of the class probability, and of the IoU."""
        return float(self._filled()[5]), float(self._filled()[6])

    @property
    def is_list(self) -> bool:
        """The first word names a list of images."""
        return self.image.suffix.lower() in LISTS


def _is_fraction(word: str) -> bool:
    try:
        return 0 <= float(word) <= 1
    except ValueError:
        return False
