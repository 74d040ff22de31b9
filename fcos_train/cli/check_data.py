"""``fcos-train check-data``: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fcos_train.config.fields import Option, Options
from fcos_train.config.options import AllowOutside
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json
from mmcv_overrides.printable import printable

if TYPE_CHECKING:
    from fcos_train.data import DataReport, Split
    from fcos_train.data.images import DecodeReport


@dataclass(frozen=True)
class CheckDataOptions(Options):
    """Which data set to check, and how thoroughly."""

    path: Annotated[Path, Option("folder of the data set, its data.yaml, or a .zip or .tar of it", positional=True)]
    classes: Annotated[
        tuple[str, ...] | None, Option("use only these classes, in this order", metavar="NAME", default="all classes")
    ] = None
    allow_outside: AllowOutside = ()
    decode: Annotated[bool, Option("decode every image: finds broken images and wrong sizes")] = False
    json: Annotated[Path | None, Option("also write the report as JSON", metavar="FILE", default="not written")] = None
    pictures: Annotated[
        Path | None,
        Option("draw images and statistics of their boxes on a page", metavar="DIR", default="not drawn"),
    ] = None


def run(options: CheckDataOptions) -> int:
    """Recognise a COCO, VOC or YOLO data set, count what it holds and report what is wrong with it.

    Changes nothing. Exit status 2 if it cannot be trained on, or with --decode if any image cannot be decoded.
    """
    checked(options, print)
    return 0


def checked(options: CheckDataOptions, say: Callable[[str], None]) -> DataReport:
    """:func:`run`, with the report.

    Args:
        say: prints a line.

    Raises:
        UserError: the data set cannot be trained on, or an image cannot be decoded.
    """
    from fcos_train.data.images import decode_split
    from fcos_train.data.layout import resolve

    with tempfile.TemporaryDirectory(prefix="fcos-train-check-") as cache_dir:
        spec = resolve(options.path, cache_dir, options.classes, options.allow_outside, test=True)
        splits = list(dict.fromkeys(split for split in (spec.train, spec.val, spec.test) if split is not None))
        decoded = [decode_split(split) for split in splits] if options.decode else []
        drawn = [f"  pictures: {_draw(splits, spec.report.lines(), options.pictures)}"] if options.pictures else []
    say("\n".join(spec.report.lines() + [f"  {line}" for report in decoded for line in report.lines()] + drawn))
    if options.json:
        write_json(options.json, {**spec.report.to_dict(), "decode": [vars(report) for report in decoded]})
    if options.decode:
        _require_readable(spec.report, decoded)
    return spec.report


def _draw(splits: list[Split], lines: list[str], folder: Path) -> Path:
    """The page with the pictures.

    Raises:
        UserError: an image cannot be read, or the folder cannot be written.
    """
    from fcos_train.report.evaluation import Unavailable
    from fcos_train.report.samples import write_pictures

    try:
        files = {split.name: (Path(split.ann_file), Path(split.img_dir)) for split in splits}
        return write_pictures(files, lines, folder)
    except (Unavailable, OSError) as error:
        raise UserError(f"no pictures: {error}") from error


def _require_readable(report: DataReport, decoded: list[DecodeReport]) -> None:
    """Refuse images that cannot be decoded: those whose headers show it are left out, training stops at the others."""
    left_out = sum(split.counts["unreadable_images"] for split in report.splits.values())
    broken = [reason for part in decoded for reason in part.reasons]
    if not left_out + len(broken):
        return
    examples = [text for split in report.splits.values() for text in split.examples.get("unreadable_images", ())]
    parts = [f"{left_out} are left out"] if left_out else []
    parts += [f"training would stop at {'the others' if left_out else 'them'}"] if broken else []
    raise UserError(
        f"{left_out + len(broken)} images cannot be decoded, e.g. {printable((examples + broken)[0])}; "
        f"{', '.join(parts)}. Replace the files, or take their entries out of the annotations"
    )
