"""Hooks that spoil the data of a training in mid-run, named in configs through ``custom_hooks``."""

import multiprocessing
import os
import signal
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SpoilData(Hook):
    """Spoils images when the data have been checked, or kills a loader process after the first step.

    Args:
        images: their files. how: ``truncate``, ``empty``, ``delete``, ``kill worker``, or ``nothing``.
    """

    def __init__(self, images: list[str], how: str) -> None:
        self.images, self.how = [Path(image) for image in images], how

    def before_train(self, runner) -> None:
        for image in self.images:
            if self.how == "delete":
                image.unlink(missing_ok=True)
            elif self.how in ("truncate", "empty"):
                os.truncate(image, 200 if self.how == "truncate" else 0)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.how == "kill worker" and runner.iter == 0:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
