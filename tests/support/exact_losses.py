"""Hooks for tests, named in a config through ``custom_hooks``."""

import json
import os
import sys
import time
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class PrintExactLosses(Hook):
    """Prints the loss of every rank and iteration with all its bits, the images it comes from, and when."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        images = ",".join(str(s.img_id) for s in data_batch["data_samples"])
        line = f"exact {get_rank()} {runner.iter + 1} {outputs['loss'].item().hex()} {images} {time.time():.6f}\n"
        os.write(1, line.encode())  # one system call: lines of two ranks don't mix


@HOOKS.register_module()
class SleepOnRank(Hook):
    """Lets one rank fall behind for good."""

    def __init__(self, rank: int, iteration: int, seconds: float) -> None:
        self.rank, self.iteration, self.seconds = rank, iteration, seconds

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if get_rank() == self.rank and runner.iter == self.iteration:
            time.sleep(self.seconds)


@HOOKS.register_module()
class SlowValidation(Hook):
    """Prints each batch of a validation, and lets it take a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        os.write(1, f"validating {get_rank()} {batch_idx}\n".encode())
        time.sleep(self.seconds)


@HOOKS.register_module()
class CountSteps(Hook):
    """Writes what the device counted between the ends of two iterations, one JSON line each, to ``file``.RANK.

    The first line has everything since the process started.
    """

    priority = "LOWEST"  # after all other hooks

    def __init__(self, file: str) -> None:
        self.file = Path(f"{file}.{get_rank()}")
        self.seen: set[str] = set()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        device = sys.modules["torch_npu"]._C
        counted = device.counts()
        device.clear()
        events, signatures = counted["events"], set(counted["signatures"])
        row = {
            "launches": counted["launches"],
            "new_signatures": sorted(signatures - self.seen),
            "events": events,
            "syncs": sum(n for name, n in events.items() if name.startswith("sync:")),
            "not_native": counted["not_native"],
        }
        self.seen |= signatures
        with self.file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
