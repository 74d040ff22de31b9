"""The logger hook: text lines, the same records as JSON lines, and curves.

``<work dir>/<timestamp>.log.json`` has one object per line; the text lines are printed from the same rounded numbers::

    {"mode": "train", "epoch": 1, "iter": 50, "step": 50, "lr": 0.00125, "time": 0.31, ..., "loss": 1.8}
    {"mode": "val", "epoch": 1, "iter": 72, "bbox_mAP": 0.126, ...}

``step`` counts optimizer steps from 1 over all epochs. ``iter`` restarts in every epoch of a training by epochs; in an
evaluation it is the number of images. Both mmcv 1.x tools (keys ``mode``, ``epoch``, ``iter``) and mmdet 3.x's
``analyze_logs.py`` read the file. The latter pairs each value with a ``step`` of the same epoch, so evaluation records
must not have one.

The curves have mmengine's names (``loss``, ``coco/bbox_mAP``), so that the files of its local backend in ``vis_data``
are read by mmdet's ``analyze_logs.py`` too.
"""

from __future__ import annotations

import json
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.fileio import dump
from mmengine.hooks import LoggerHook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from mmcv_overrides.dispensable import Dispensable
from mmcv_overrides.files import append
from mmcv_overrides.seams import Override
from mmcv_overrides.text_log import NOT_CURVES, NUMBERS, json_value, log_line_follows, trains


class ContractLoggerHook(LoggerHook):
    """mmengine's logger with ``<work_dir>/<timestamp>.log.json`` (one object per line), the global step as the x axis
    of every curve, and without the lines that repeat the experiment's name. It works with any log processor.

    Args:
        interval: iterations from one line to the next.
        ignore_last: no line for the last iteration of an epoch unless the interval ends there.
        log_metric_by_epoch: the epoch as the x axis of metrics.
        kwargs: further arguments of mmengine's LoggerHook.
    """

    def __init__(
        self, interval: int = 10, ignore_last: bool = False, log_metric_by_epoch: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(interval, ignore_last=ignore_last, log_metric_by_epoch=log_metric_by_epoch, **kwargs)
        self.json_path: Path | None = None
        self._state = Dispensable("the JSON log")

    def before_run(self, runner: Runner) -> None:
        """Name the JSON log; the file is created with its first record."""
        super().before_run(runner)
        self.json_path = Path(runner.work_dir) / f"{runner.timestamp}.log.json"

    @master_only
    def _write(self, runner: Runner, tag: dict, mode: str, position: dict) -> None:
        """Append a record to the JSON log and its numbers to the curves.

        Args:
            tag: what the log processor collected. position: where it stands, unless ``tag`` says so itself.
        """
        assert self.json_path is not None, "before_run names it"
        record = {"mode": mode, **position, **tag}
        if mode != "train":
            record.pop("step", None)
        line = json.dumps({k: json_value(v) for k, v in record.items()}) + "\n"
        with self._state.attempt():
            append(self.json_path, line)
        numbers = {k: v for k, v in record.items() if k not in NOT_CURVES and isinstance(v, (Number, np.number))}
        step = runner.iter if trains(runner) else 0
        if mode == "train":
            step = runner.iter + 1
            numbers["iter"] = step
        else:
            if self.log_metric_by_epoch:
                step = runner.epoch if trains(runner) else 0
            numbers = {k if "/" in k else f"{mode}/{k}": v for k, v in numbers.items() if k not in position}
        if getattr(runner.log_processor, "log_with_hierarchy", False):
            numbers = {k if k.startswith(f"{mode}/") else f"{mode}/{k}": v for k, v in numbers.items()}
        runner.visualizer.add_scalars(numbers, step=step, file_path=self.json_log_path)

    def write_record(self, runner: Runner, tag: dict, mode: str, position: dict) -> None:
        """Another hook's numbers: a record of this ``mode`` in the JSON log, and curves under its name."""
        self._write(runner, tag, mode, position)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        """Log a training line when one is due."""
        if log_line_follows(runner, batch_idx):
            tag, text = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
            runner.logger.info(text, extra={NUMBERS: tag})
            position = {"epoch": runner.epoch + 1, "iter": runner.iter + 1, "step": runner.iter + 1}
            self._write(runner, tag, "train", position)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: Any = None
    ) -> None:
        """Nothing: one line per evaluation, not per ``interval`` batches of it."""

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: Any = None
    ) -> None:
        """Nothing: one line per evaluation, not per ``interval`` batches of it."""

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the numbers of an evaluation during training."""
        self._after_evaluation(runner, runner.val_dataloader, "val")

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the numbers of an evaluation of its own; mmengine's file of them is in ``log_dir`` too."""
        tag = self._after_evaluation(runner, runner.test_dataloader, "test")
        folder = Path(runner.log_dir)
        if folder.resolve() != Path(runner.work_dir).resolve():  # there the JSON log has them
            self._dump(folder / str(self.json_log_path), tag)

    @master_only
    def _dump(self, path: Path, tag: dict) -> None:
        with self._state.attempt():
            dump({k: json_value(v) for k, v in tag.items() if k not in ("mode", "epoch", "iter")}, str(path))

    def _after_evaluation(self, runner: Runner, loader: Any, mode: str) -> dict:
        images = len(loader.dataset) if hasattr(loader.dataset, "__len__") else 0
        tag, text = runner.log_processor.get_log_after_epoch(runner, images, mode, with_non_scalar=True)
        runner.logger.info(text, extra={NUMBERS: tag})
        self._write(runner, tag, mode, {"epoch": runner.epoch if trains(runner) else 0, "iter": images})
        return tag


OVERRIDES = [
    Override("HOOKS:LoggerHook", ContractLoggerHook, "the same records as JSON lines, one per evaluation"),
]
