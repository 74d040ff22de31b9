"""``fcos-train train``: train any mmdet 3.x config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fcos_train.cli.finished import show_finished
from fcos_train.config.options import TrainOptions
from mmcv_overrides import signals


def run(options: TrainOptions) -> int:
    """Train a detector from a config of mmdet 3.x.

    Checkpoints, logs and curves go to the work dir; a flag that is given takes precedence over --cfg-options, and
    --cfg-options over the config file.
    """
    with signals.handled():
        options = with_batch_size(options)
    if options.devices is not None and options.devices > 1:
        from fcos_train.launch.ranks import run_ranks

        one = replace(options, devices=None, max_restarts=None)
        return run_ranks(__name__, one, options.devices, options.device, options.max_restarts or 0)
    with signals.handled(done_is_success=True):
        from fcos_train.engine.run import train

        runner = train(options)
        show_finished(Path(runner.work_dir))
    return 0


def with_batch_size(options: TrainOptions) -> TrainOptions:
    """The options with a number in the place of ``auto``, which is printed.

    Raises:
        UserError: that of :func:`fcos_train.launch.batch_size.fitting_batch_size`.
    """
    if options.batch_size != "auto":
        return options
    from fcos_train.launch.batch_size import fitting_batch_size

    size, line = fitting_batch_size(options, options.devices or 1)
    print(line, flush=True)
    return replace(options, batch_size=size)
