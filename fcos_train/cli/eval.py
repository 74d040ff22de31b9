"""``fcos-train eval``: the COCO numbers of a checkpoint."""

from __future__ import annotations

from dataclasses import replace

from fcos_train.config.options import EvalOptions


def run(options: EvalOptions) -> int:
    """Evaluate a checkpoint: the 12 COCO numbers and the AP of each class."""
    if options.devices is not None and options.devices > 1:
        from fcos_train.launch.ranks import run_ranks

        return run_ranks(__name__, replace(options, devices=None), options.devices, options.device)
    from fcos_train.engine.run import evaluate

    metrics = evaluate(options)
    if options.out:
        from fcos_train.evaluation import write_metrics

        write_metrics(options.out, metrics)
    return 0
