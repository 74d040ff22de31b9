"""``fcos-train eval``: the COCO numbers of a checkpoint."""

from __future__ import annotations

import argparse

from fcos_train.cli.train import options_from
from fcos_train.cli.values import ALLOW_OUTSIDE


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("eval", help="evaluate a checkpoint")
    add = parser.add_argument
    add("config", help="the config it was trained with ('-': the config.py beside the checkpoint)")
    add("checkpoint")
    add("--data-path", metavar="DIR", help="data set in COCO or VOC layout (default: the config's)")
    add("--work-dir", metavar="DIR", help="where the results go (default: eval/ beside the checkpoint)")
    add("--device", default="auto", help="auto, cpu, cuda or npu (default auto)")
    add("--batch-size", type=int, metavar="N", help="images per device")
    add("--workers", type=int, metavar="N", help="loader processes per rank")
    add("--out", metavar="FILE", help="also write the numbers as JSON")
    add("--eval", nargs="+", default=["bbox"], choices=("bbox",), help="accepted for old scripts; boxes are evaluated")
    add("--show-dir", metavar="DIR", help="draw the detections of every image")
    add("--show-score-thr", type=float, default=0.3, metavar="S", help="smallest score that is drawn (default 0.3)")
    add("--classes", nargs="+", metavar="NAME", help="the classes it was trained on, when only some of the data set's")
    add(
        "--launcher",
        choices=("none", "pytorch"),
        help="pytorch: join the other ranks (default under torchrun); none: run alone",
    )
    add("--trust-checkpoint", action="store_true", help="allow checkpoints that execute code when read")
    add(
        "--safe-config",
        action="store_true",
        help="read the config as data: refuse a program (also the config.py beside a checkpoint) and unregistered parts",
    )
    add("--allow-outside", action="append", default=[], metavar="DIR", help=ALLOW_OUTSIDE)
    add("--cfg-options", nargs="+", action="extend", metavar="K=V", help="change any key of the config")
    return parser


def run(args: argparse.Namespace) -> int:
    from fcos_train.config.options import EvalOptions

    args.config = None if args.config == "-" else args.config
    options = options_from(args, EvalOptions)
    from fcos_train.engine.run import evaluate

    metrics = evaluate(options)
    if options.out:
        from fcos_train.evaluation import write_metrics

        write_metrics(options.out, metrics)
    return 0
