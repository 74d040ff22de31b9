"""`fcos-train check-data`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from fcos_train.cli.values import ALLOW_OUTSIDE
from fcos_train.data.images import DecodeReport, decode_split
from fcos_train.data.layout import resolve
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "check-data",
        help="check a data set before training",
        description="Recognise a COCO or VOC data set, count what it holds and report what is wrong with it. "
        "Changes nothing. Exit status 2 if it cannot be trained on.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of the data set")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="use only these classes, in this order")
    parser.add_argument("--allow-outside", action="append", default=[], metavar="DIR", help=ALLOW_OUTSIDE)
    parser.add_argument("--decode", action="store_true", help="open every image: finds broken and mis-sized ones")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the whole report as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="fcos-train-check-") as cache_dir:
        spec = resolve(args.path, cache_dir, args.classes, args.allow_outside)
        decoded = [decode_split(split) for split in (spec.train, spec.val)] if args.decode else []
    print("\n".join(spec.report.lines() + [f"  {line}" for report in decoded for line in report.lines()]))
    if args.json:
        write_json(args.json, {**spec.report.to_dict(), "decode": [vars(report) for report in decoded]})
    _require_readable(decoded)
    return 0


def _require_readable(decoded: list[DecodeReport]) -> None:
    broken = [reason for report in decoded for reason in report.reasons]
    if broken:
        raise UserError(
            f"{len(broken)} images cannot be decoded, e.g. {broken[0]}; training would stop at them. Replace "
            "or delete them (images without a file are left out)"
        )
