"""``fcos-train train``: train any mmdet 3.x config."""

from __future__ import annotations

from pathlib import Path

from fcos_train.cli.finished import show_finished
from fcos_train.config.options import TrainOptions


def run(options: TrainOptions) -> int:
    """Train a detector from a config of mmdet 3.x.

    Checkpoints, logs and curves go to the work dir; a flag that is given takes precedence over --cfg-options, and
    --cfg-options over the config file.
    """
    from fcos_train.engine.run import train

    runner = train(options)
    show_finished(Path(runner.work_dir))
    return 0
