"""`fcos-train make-shapes`: a small generated data set to try everything with."""

from __future__ import annotations

import argparse
from pathlib import Path

from fcos_train.data.shapes import CLASSES, make_shapes


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "make-shapes",
        help="generate a small data set of drawn shapes",
        description="Draw circles, squares and triangles on textured backgrounds: a COCO data set, "
        "always the same for the same arguments.",
    )
    parser.add_argument("path", type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--train", type=int, default=200, metavar="N", help="training images (default 200)")
    parser.add_argument("--val", type=int, default=50, metavar="N", help="validation images (default 50)")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 240), metavar=("W", "H"), help="default 320 240")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    return parser


def run(args: argparse.Namespace) -> int:
    root = make_shapes(args.path, train=args.train, val=args.val, size=tuple(args.size), seed=args.seed)
    print(f"{args.train} training and {args.val} validation images of {', '.join(CLASSES)} in {root}")
    return 0
