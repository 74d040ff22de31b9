"""``fcos-train demo``: draw what a checkpoint finds in an image, a folder, a video or a camera."""

from __future__ import annotations

import argparse


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "demo",
        help="draw what a checkpoint finds in pictures",
        description="Detect objects in an image, a folder of images, a video or a camera, draw them with class name "
        "and score, and write <name>_pred.jpg (or a video) into --show-dir.",
    )
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a .pth file; its configuration is read from it")
    add(
        "--img",
        metavar="FILE|DIR|VIDEO|N",
        help="image, folder of images, video, or camera number (default: demo/demo.jpg if there, else the first "
        "validation image, else a generated one)",
    )
    add("--config", metavar="FILE", help="configuration, when the checkpoint has none or you want another")
    add("--device", default="auto", help="auto, cpu, cuda, npu, or one card as in npu:0 (default auto)")
    add("--score-thr", type=float, default=0.3, metavar="S", help="smallest score that is drawn (default 0.3)")
    add("--show-dir", default=".", metavar="DIR", help="where drawn pictures go (default: this folder)")
    add("--show", action="store_true", help="also open a window (a key for the next picture, q to stop)")
    add("--trust-checkpoint", action="store_true", help="allow a checkpoint that executes code when read")
    add(
        "--safe-config",
        action="store_true",
        help="read the config as data: refuse a program (also the config.py beside a checkpoint) and unregistered parts",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    from fcos_train.infer.demo import DemoOptions, demo

    names = DemoOptions.__dataclass_fields__
    demo(DemoOptions(**{name: value for name, value in vars(args).items() if name in names}))
    return 0
