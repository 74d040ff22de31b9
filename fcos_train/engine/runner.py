"""The runner: mmengine's, with a log that a person can read and files where users look for them."""

from __future__ import annotations

import logging
import platform
import sys
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner

import mmcv_overrides
from mmcv_overrides import device, precision
from mmcv_overrides.printable import printable_lines

MAX_CONSOLE_LINES = 3


# mmengine's own classes warning each other; nothing that a user could act on.
NOISE = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')


class ShortRecords(logging.Filter):
    """Walls of text and warnings of mmengine about itself go to the log file only."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message.startswith(NOISE):
            return False
        return record.levelno > logging.INFO or message.count("\n") < MAX_CONSOLE_LINES


class PlainFormatter(logging.Formatter):
    """``2026-01-01 12:00:00,000 - mmdet - INFO - ...``, the line format of mmcv 1.x that scripts grep."""

    def __init__(self):
        super().__init__("%(asctime)s - mmdet - %(levelname)s - %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Without control characters: names from files must not steer the terminal that shows the log."""
        return printable_lines(super().format(record))


class DetectionRunner(Runner):
    """Builds everything from a prepared config; the only runner of this project."""

    def build_logger(self, log_level="INFO", log_file=None, **kwargs) -> MMLogger:
        path = Path(self.work_dir) / f"{self.timestamp}.log"
        logger = super().build_logger(log_level=log_level, log_file=log_file or str(path), **kwargs)
        for handler in logger.handlers:
            handler.setFormatter(PlainFormatter())
            if type(handler) is logging.StreamHandler:
                handler.setStream(sys.stdout)
                handler.addFilter(ShortRecords())
        return logger

    @property
    def log_dir(self) -> str:
        return str(self.work_dir)

    def dump_config(self) -> None:
        """Write ``config.py`` for a training; that of an evaluation could not train, and is of no use."""
        if self.cfg.get("train_cfg") is not None:
            super().dump_config()

    def _log_env(self, env_cfg: dict) -> None:
        """What runs here in a few lines; the whole config goes to ``config.py`` beside the log."""
        self.logger.info(
            f"python {platform.python_version()}, torch {torch.__version__}, {device.current().name}, "
            f"{self.world_size} process{'es' if self.world_size > 1 else ''}, "
            f"{device.cores()} cores, {torch.get_num_threads()} threads, seed {self.seed}"
        )
        rows = mmcv_overrides.table()
        self.logger.info(f"{rows[0]}; {len(rows) - 1} overrides of the mm runtime (table in the log file)")
        self.logger.info("overrides, old -> new: why\n  " + "\n  ".join(rows) + "\n\n")

    def get_hooks_info(self) -> str:
        return super().get_hooks_info() + "\n" * MAX_CONSOLE_LINES

    def wrap_model(self, model_wrapper_cfg, model):
        """Memory format first: DDP lays out its buckets by the strides it finds.

        The weights stay fp32 here: at O2 the optimizer wrapper casts them when the model has those to start from.
        """
        if any(h.get("channels_last") for h in self.cfg.get("custom_hooks") or []):
            model.to(memory_format=torch.channels_last)
        precision.keep_losses_fp32(model)
        return super().wrap_model(model_wrapper_cfg, model)
