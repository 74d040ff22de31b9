"""``fcos-train convert``: a data set in another layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fcos_train.config.fields import Option, Options, existing
from fcos_train.config.options import MAX_SEED, AllowOutside
from mmcv_overrides.printable import printable

LAYOUTS = ("coco", "voc", "yolo")


@dataclass(frozen=True)
class ConvertOptions(Options):
    """Which data set to write, where and how."""

    source: Annotated[
        Path, Option("folder of the data set, its data.yaml, or a .zip or .tar of it", positional=True, check=existing)
    ]
    target: Annotated[Path, Option("folder to write, absent or empty", positional=True)]
    to: Annotated[str, Option("layout to write", metavar="LAYOUT", choices=LAYOUTS)]
    link: Annotated[bool, Option("hard links to the images instead of copies; both on one file system")] = False
    val_share: Annotated[
        float | None,
        Option(
            "of a data set without splits: share of its images to validate on, e.g. 0.2",
            metavar="S",
            default="the splits that there are",
            least=0,
            most=1,
        ),
    ] = None
    seed: Annotated[int | None, Option("seed of that choice", metavar="N", default="0", least=0, most=MAX_SEED)] = None
    classes: Annotated[
        tuple[str, ...] | None, Option("only these classes, in this order", metavar="NAME", default="all classes")
    ] = None
    allow_outside: AllowOutside = ()

    def conflicts(self) -> list[str]:
        """A seed of a choice that is not made."""
        alone = self.seed is not None and self.val_share is None
        return ["--seed is of the choice that --val-share makes, which is not given"] if alone else []


def run(options: ConvertOptions) -> int:
    """Write a data set in COCO, VOC or YOLO layout, all splits with their images.

    What a check of the data would correct is corrected. Nothing is overwritten; the source is not changed.
    """
    from fcos_train.data.convert import convert

    report, notes = convert(
        options.source,
        options.target,
        options.to,
        options.link,
        options.classes,
        options.allow_outside,
        options.val_share,
        options.seed or 0,
    )
    print("\n".join([*report.lines(), *(f"  not in {options.to}: {printable(note)}" for note in notes)]))
    print(f"written to {options.target}")
    return 0
