"""``fcos-train train``: train any mmdet 3.x config."""

from __future__ import annotations

import argparse
from dataclasses import fields

from fcos_train.cli.values import ALLOW_OUTSIDE, parse_cfg_options


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("train", help="train a model")
    add = parser.add_argument
    add("config", help="a config file, its name within configs/, or mmdet::folder/name")
    add("--data-path", metavar="DIR", help="data set in COCO or VOC layout; class names come from its annotations")
    add(
        "--work-dir",
        metavar="DIR",
        help="where logs and checkpoints go (default work_dirs/<config name>; with -2, -3, ... behind it where that holds another run)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace the run in the work dir: its checkpoints, logs and curves are removed",
    )
    add("--device", default="auto", help="auto, cpu, cuda or npu (default auto)")
    add("--opt-level", choices=("O0", "O1", "O2", "bf16"), help="mixed precision (default O1)")
    add("--amp-dtype", choices=("fp16", "bf16"), help="half type of O1 and O2 (default: the device's good one)")
    add("--loss-scale", metavar="N", help="static scale, or 'dynamic' (-1); default 32.0")
    add("--seed", type=int, metavar="N", help="seed of weights and data (default: drawn, printed)")
    add("--deterministic", action="store_true", default=None, help="deterministic kernels on an accelerator, slower")
    add("--max-iters", type=int, metavar="N", help="stop after so many iterations in all")
    add("--max-epochs", type=int, metavar="N", help="number of epochs; the schedule is stretched along")
    add("--batch-size", type=int, metavar="N", help="images per device and step")
    add("--workers", type=int, metavar="N", help="loader processes per rank")
    add("--lr-base", type=int, metavar="N", help="global batch that the config's learning rate is meant for")
    add("--no-auto-lr", dest="auto_lr", action="store_false", help="do not scale the learning rate with the batch")
    add("--resume", nargs="?", const="auto", metavar="CKPT", help="go on from this checkpoint, or the newest readable")
    add("--load-from", metavar="CKPT", help="start from these weights")
    add(
        "--pretrained",
        default="require",
        choices=("require", "auto", "none"),
        help="backbone weights: an error when absent, take them if there, or don't",
    )
    add(
        "--step-mode",
        default="auto",
        choices=("auto", "eager", "compile", "graph", "mmdet"),
        help="how a step runs: fixed shapes (eager; compile: through torch.compile; graph: one CUDA graph a step) or mmdet's own way (default auto: eager where the model has fixed shapes)",
    )
    add("--no-validate", dest="validate", action="store_false", help="no evaluation during training")
    add("--no-check", dest="check", action="store_false", help="do not print the data report")
    add("--classes", nargs="+", metavar="NAME", help="train on these classes only")
    add(
        "--launcher",
        choices=("none", "pytorch"),
        help="pytorch: join the other ranks (default under torchrun); none: run alone",
    )
    add("--npu-ids", type=int, metavar="N", help="first card to use")
    add("--trust-checkpoint", action="store_true", help="allow checkpoints that execute code when read")
    add(
        "--safe-config",
        action="store_true",
        help="read the config as data: refuse a program (also the config.py beside a checkpoint) and unregistered parts",
    )
    add("--allow-outside", action="append", default=[], metavar="DIR", help=ALLOW_OUTSIDE)
    add("--cfg-options", nargs="+", action="extend", metavar="K=V", help="change any key of the config")
    return parser


def options_from(args: argparse.Namespace, kind: type):
    """The validated dataclass of a verb from its parsed flags."""
    values = {f.name: getattr(args, f.name) for f in fields(kind) if hasattr(args, f.name)}
    values["cfg_options"] = parse_cfg_options(values.get("cfg_options") or [])
    values["allow_outside"] = tuple(values["allow_outside"])
    if values.get("classes"):
        values["classes"] = tuple(values["classes"])
    return kind(**values)


def run(args: argparse.Namespace) -> int:
    from fcos_train.config.options import TrainOptions

    options = options_from(args, TrainOptions)
    from fcos_train.engine.run import train

    train(options)
    return 0
