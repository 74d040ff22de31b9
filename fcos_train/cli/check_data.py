"""``fcos-train check-data``: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fcos_train.config.fields import Option, Options
from fcos_train.config.options import AllowOutside
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json

if TYPE_CHECKING:
    from fcos_train.data.images import DecodeReport


@dataclass(frozen=True)
class CheckDataOptions(Options):
    """Which data set to check, and how thoroughly."""

    path: Annotated[Path, Option("folder of the data set", positional=True)]
    classes: Annotated[
        tuple[str, ...] | None, Option("use only these classes, in this order", metavar="NAME", default="all classes")
    ] = None
    allow_outside: AllowOutside = ()
    decode: Annotated[bool, Option("decode every image: finds broken images and wrong sizes")] = False
    json: Annotated[Path | None, Option("also write the report as JSON", metavar="FILE", default="not written")] = None


def run(options: CheckDataOptions) -> int:
    """Recognise a COCO or VOC data set, count what it holds and report what is wrong with it.

    Changes nothing. Exit status 2 if it cannot be trained on.
    """
    from fcos_train.data.images import decode_split
    from fcos_train.data.layout import resolve

    with tempfile.TemporaryDirectory(prefix="fcos-train-check-") as cache_dir:
        spec = resolve(options.path, cache_dir, options.classes, options.allow_outside)
        decoded = [decode_split(split) for split in (spec.train, spec.val)] if options.decode else []
    print("\n".join(spec.report.lines() + [f"  {line}" for report in decoded for line in report.lines()]))
    if options.json:
        write_json(options.json, {**spec.report.to_dict(), "decode": [vars(report) for report in decoded]})
    _require_readable(decoded)
    return 0


def _require_readable(decoded: list[DecodeReport]) -> None:
    broken = [reason for report in decoded for reason in report.reasons]
    if broken:
        raise UserError(
            f"{len(broken)} images cannot be decoded, e.g. {broken[0]}; training would stop at them. Replace "
            "or delete them (images without a file are left out)"
        )
