"""`fcos-train audit`: what a training step of a config asks of an accelerator, in counts."""

from __future__ import annotations

import argparse
from pathlib import Path

from fcos_train.cli.values import parse_cfg_options

LIMITS = {
    "launches": "operators that are launched in a step",
    "syncs": "waits of the host for the device",
    "new_signatures": "operators with shapes not seen in the steps before",
    "h2d_copies": "copies from the host to the device",
    "strided_inputs": "strided inputs of convolutions, matrix products and norms",
    "float64": "operators on float64 tensors",
    "host_operators": "operators that an Ascend NPU runs on the host",
    "graph_breaks": "places where torch.compile leaves the graph",
}


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "audit",
        help="count what a training step asks of an accelerator",
        description="Run a few training steps of a config on made-up images and count launches, host syncs, new "
        "shapes, copies, and operators that an Ascend NPU would run on the host. Needs no data and no accelerator. "
        "Exit status 1 when a count is above its --max-... limit.",
    )
    add = parser.add_argument
    add("config", metavar="CONFIG", help="a config file, its name within configs/, or mmdet::folder/name")
    add("--batch-size", type=int, default=2, metavar="N", help="images in a step (default 2)")
    add("--shape", type=int, nargs=2, metavar=("H", "W"), help="size of the images, px (default: the config's)")
    add("--device", default="auto", help="auto, cpu, cuda or npu (default auto); copies show on an accelerator only")
    add("--opt-level", choices=("O0", "O1", "O2", "bf16"), help="precision as in training (default O1)")
    add("--loss-scale", metavar="N", help="static scale, or 'dynamic' (default 32.0)")
    add("--step-mode", default="auto", choices=("auto", "eager", "mmdet"), help="as in training (default auto)")
    add("--steps", type=int, default=4, metavar="N", help="steps to run; the first is not counted (default 4)")
    add("--graph-breaks", action="store_true", help="also ask torch.compile where it leaves the graph (slow)")
    add(
        "--cfg-options",
        nargs="+",
        action="extend",
        metavar="K=V",
        help="changes of the config, e.g. model.backbone.depth=18",
    )
    add("--safe-config", action="store_true", help="read the config as data: refuse a program and unregistered parts")
    add("--json", type=Path, metavar="FILE", help="also write the counts as JSON")
    for name, meaning in LIMITS.items():
        add(f"--max-{name.replace('_', '-')}", type=int, metavar="N", help=f"limit: {meaning}")
    return parser


def run(args: argparse.Namespace) -> int:
    from fcos_train.audit.step import AuditOptions, build, graph_breaks, trace_steps
    from fcos_train.audit.summary import summarise
    from mmcv_overrides.files import write_json

    options = AuditOptions(
        config=args.config,
        batch_size=args.batch_size,
        shape=tuple(args.shape) if args.shape else None,
        device=args.device,
        opt_level=args.opt_level,
        loss_scale=args.loss_scale,
        step_mode=args.step_mode,
        steps=args.steps,
        graph_breaks=args.graph_breaks or args.max_graph_breaks is not None,
        safe_config=args.safe_config,
        cfg_options=parse_cfg_options(args.cfg_options or []),
    )
    trained = build(options)
    report = summarise(trace_steps(trained, options))
    if options.graph_breaks:
        report.graph_breaks, report.break_reasons = graph_breaks(trained, options)
    height, width = trained.shape
    title = f"one training step, {options.batch_size} x {height}x{width}, on {trained.accelerator.name}"
    print("\n".join([*trained.notes, f"{title}, after the first:", *report.lines()]))
    if args.json:
        write_json(args.json, report.to_dict())
    above = report.over({name: getattr(args, f"max_{name}") for name in LIMITS})
    for line in above:
        print(f"above the limit: {line}")
    return 1 if above else 0
