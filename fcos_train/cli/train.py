"""``fcos-train train``: train any mmdet 3.x config."""

from __future__ import annotations

from fcos_train.config.options import TrainOptions


def run(options: TrainOptions) -> int:
    """Train a detector from a config of mmdet 3.x."""
    from fcos_train.engine.run import train

    train(options)
    return 0
