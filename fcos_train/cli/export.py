"""``fcos-train export``: a checkpoint in, a checked ONNX file out."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from fcos_train.cli.values import parse_cfg_options
from mmcv_overrides.errors import UserError

ENDS = ("raw", "decoded", "nms", "ascend")
USUAL = Path("work_dirs/fcos_r50_caffe_fpn_4x4_1x_coco/latest.pth")
# Flags of mmdet 2.x that need nothing here: flag -> what is said.
OLD = {
    "--verify": "the file is always verified",
    "--simplify": "there is nothing left to simplify",
    "--show": "pictures are drawn by fcos-train demo",
    "--view": "look at the file with any ONNX viewer",
}


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "export",
        help="write a checkpoint as ONNX and prove that it answers the same",
        description="Write a detector as ONNX, with a description in JSON beside it. The file is run beside PyTorch "
        "on at least two images before it gets its name; one that differs is kept as *.failed.onnx.",
    )
    add = parser.add_argument
    add(
        "files",
        nargs="*",
        metavar="[CONFIG] [CHECKPOINT]",
        help=f"the .pth file, and a configuration when it has none (default: {USUAL}, else the newest "
        "work_dirs/*/latest.pth)",
    )
    add("--config", metavar="FILE", help="configuration, when the checkpoint has none or you want another")
    add(
        "--end",
        default="nms",
        choices=ENDS,
        help="raw: maps of each level; decoded: boxes and scores; nms: dets and "
        "labels (default); ascend: the same with Ascend's operators, for atc",
    )
    add("--output-file", dest="output", metavar="FILE", help="default: <checkpoint>_<end>.onnx")
    add(
        "--shape",
        nargs="+",
        type=int,
        metavar=("H", "W"),
        help="input in px, one number for a square (default: of the test pipeline; 800 1216 for COCO's)",
    )
    add("--batch", type=int, default=1, metavar="N", help="images of an input (default 1)")
    add("--dynamic", nargs="+", action="extend", default=[], metavar="AXIS", help="leave open: batch height width")
    add("--dynamic-export", action="store_true", help="the same as --dynamic batch height width")
    add(
        "--opset",
        "--opset-version",
        type=int,
        metavar="N",
        help="11 to 20 (default 17; 19 with deformable convolution; 11 for ascend)",
    )
    add("--usual-opset", type=int, help=argparse.SUPPRESS)  # of pthtar2onx.py: raised where the graph needs more
    add("--normalize-in-graph", action="store_true", help="the input is raw BGR pixels, 0 to 255")
    add("--input-img", metavar="FILE|DIR", help="images to verify with (default: validation images, else generated)")
    add("--test-img", help=argparse.SUPPRESS)
    add("--score-thr", type=float, metavar="S", help="replaces the threshold of the configuration")
    add("--mean", nargs=3, type=float, metavar="M", help="replaces the mean of the configuration")
    add("--std", nargs=3, type=float, metavar="S", help="replaces the std of the configuration")
    add("--output-names", nargs=2, default=["dets", "labels"], metavar=("DETS", "LABELS"), help="default: dets labels")
    add("--cfg-options", nargs="+", action="extend", metavar="K=V", help="change any key of the config")
    add("--trust-checkpoint", action="store_true", help="allow a checkpoint that executes code when read")
    add(
        "--safe-config",
        action="store_true",
        help="read the config as data: refuse a program (also the config.py beside a checkpoint) and unregistered parts",
    )
    add("--dataset", help=argparse.SUPPRESS)
    for flag in OLD:
        add(flag, action="store_true", help=argparse.SUPPRESS)
    return parser


def run(args: argparse.Namespace) -> int:
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    for flag, answer in OLD.items():
        if getattr(args, flag[2:]):
            print(f"note: {flag} has no effect: {answer}")
    config, checkpoint = _which(args.files, args.config)
    if args.shape is not None and len(args.shape) > 2:
        raise UserError("--shape: give height and width, or one number for a square")
    from fcos_train.deploy.onnx.export import ExportOptions, export

    options = ExportOptions(
        checkpoint=checkpoint,
        config=config,
        end=args.end,
        output=args.output,
        shape=None if args.shape is None else (args.shape[0], args.shape[-1]),
        batch=args.batch,
        dynamic=("batch", "height", "width") if args.dynamic_export else tuple(args.dynamic),
        opset=args.opset,
        usual_opset=args.usual_opset,
        normalize_in_graph=args.normalize_in_graph,
        input_img=args.input_img or args.test_img,
        score_thr=args.score_thr,
        mean=None if args.mean is None else tuple(args.mean),
        std=None if args.std is None else tuple(args.std),
        output_names=tuple(args.output_names),
        trust_checkpoint=args.trust_checkpoint,
        safe_config=args.safe_config,
        cfg_options=parse_cfg_options(args.cfg_options or []),
    )
    export(options)
    return 0


def _which(files: list[str], config: str | None) -> tuple[str | None, str]:
    """Configuration and checkpoint among the positional arguments, in either order."""
    if len(files) > 2:
        raise UserError(f"unexpected argument '{files[2]}': give a configuration and a checkpoint")
    configs = [name for name in files if name.endswith(".py")]
    checkpoints = [name for name in files if not name.endswith(".py")]
    if len(checkpoints) == 2:  # the name of a shipped configuration needs no suffix
        configs, checkpoints = checkpoints[:1], checkpoints[1:]
    if len(configs) + (config is not None) > 1:
        raise UserError(f"two configurations are given: {config or configs[0]} and {configs[-1]}")
    checkpoint = checkpoints[0] if checkpoints else _usual()
    return (config or (configs[0] if configs else None)), checkpoint


def _usual() -> str:
    """The checkpoint that is meant when none is named."""
    if USUAL.is_file():
        return str(USUAL)
    found = sorted(Path("work_dirs").glob("*/latest.pth"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"give a checkpoint; there is neither {USUAL} nor another work_dirs/*/latest.pth")
    print(f"no checkpoint given: {found[-1]}, the newest")
    return str(found[-1])
