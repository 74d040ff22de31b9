"""``fcos-train print-config``: the config that a training with the same flags would use."""

from __future__ import annotations

import sys

from fcos_train.config.options import TrainOptions
from mmcv_overrides.printable import printable_lines


def run(options: TrainOptions) -> int:
    """Print the final config of a training: the file, its bases, --cfg-options and all flags in one.

    It takes the flags of train. The text is a config itself: it trains the same without the flags. What was decided
    and why goes to the standard error.
    """
    from fcos_train.engine.final_config import final_config

    text, notes = final_config(options)
    for note in notes:
        print(printable_lines(note), file=sys.stderr)
    print(text)
    return 0
