"""The options of the demo and of a prediction; importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option, Options, existing, square
from fcos_train.config.options import Device, OptionalConfig, SafeConfig, TrustCheckpoint


@dataclass(frozen=True)
class DemoOptions(Options):
    """What to draw, from where and to where.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    checkpoint: Annotated[str, Option("a .pth file; its config is read from it", positional=True, check=existing)]
    img: Annotated[
        str | None,
        Option(
            "image, folder of images, pattern in quotes ('*.png'), video, camera number, or web address of one",
            metavar="FILE|DIR|VIDEO|N|URL",
            default="demo/demo.jpg if present, else the first validation image, else a generated one",
        ),
    ] = None
    config: OptionalConfig = None
    device: Device = "auto"
    score_thr: Annotated[float, Option("smallest score that is drawn", metavar="S", least=0, most=1)] = 0.3
    show_dir: Annotated[str, Option("folder for the drawn images", metavar="DIR")] = "."
    show: Annotated[bool, Option("also open a window (any key shows the next image, q stops)")] = False
    trust_checkpoint: TrustCheckpoint = False
    safe_config: SafeConfig = False


SAVED = ("json", "yolo", "voc", "csv", "crops", "pictures")


@dataclass(frozen=True)
class PredictOptions(Options):
    """What to search, and in which forms to write what is found.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    checkpoint: Annotated[
        str, Option("a .pth file, whose config is read from it, or an exported model", positional=True, check=existing)
    ]
    sources: Annotated[
        tuple[str, ...],
        Option(
            "images, folders of images, patterns in quotes, videos, camera numbers, addresses of images, videos and "
            "streams (http, https, rtsp)",
            metavar="SOURCE...",
            positional=True,
        ),
    ] = ()
    save: Annotated[
        tuple[str, ...],
        Option(
            "json: predictions.json (COCO); csv: predictions.csv; yolo: labels/*.txt and voc: voc/*.xml, which have no "
            "scores; crops: the objects cut out; pictures: the objects drawn",
            metavar="FORM",
            choices=SAVED,
        ),
    ] = ("json", "pictures")
    out: Annotated[
        str | None,
        Option("folder to write to", metavar="DIR", default="predictions; with -2, -3, ... appended if it is in use"),
    ] = None
    score_thr: Annotated[float, Option("smallest score that is written", metavar="S", least=0, most=1)] = 0.3
    batch_size: Annotated[
        int, Option("images (with --slice: slices of an image) that are searched together", metavar="N", least=1)
    ] = 1
    slice: Annotated[
        tuple[int, int] | None,
        Option(
            "also search overlapping slices of this size in px, for small objects in large images; one number is a "
            "square, --slice alone 640",
            metavar="W H",
            default="the whole image only",
            least=16,
            expected="give width and height in px, or one number for a square",
            parse=square,
            bare="640",
        ),
    ] = None
    slice_overlap: Annotated[
        float, Option("overlap of neighbouring slices, as a fraction of their size", metavar="F", least=0, most=0.9)
    ] = 0.2
    max_frames: Annotated[
        int | None, Option("end each video, camera or stream after N frames", metavar="N", default="all", least=1)
    ] = None
    config: OptionalConfig = None
    device: Device = "auto"
    trust_checkpoint: TrustCheckpoint = False
    safe_config: SafeConfig = False

    def conflicts(self) -> list[str]:
        """Nothing to search, or nowhere to find it."""
        if not self.sources:
            return [f"give what to search after {self.checkpoint} and before the flags: images, folders, videos, ..."]
        return []
