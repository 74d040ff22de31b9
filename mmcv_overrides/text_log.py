"""Log lines in the format that users' scripts parse, the same records as JSON lines, and deferred loss read-back.

``<work dir>/<timestamp>.log.json`` has one object per line; the text lines are printed from the same rounded numbers::

    {"mode": "train", "epoch": 1, "iter": 50, "step": 50, "lr": 0.00125, "time": 0.31, ..., "loss": 1.8}
    {"mode": "val", "epoch": 1, "iter": 72, "bbox_mAP": 0.126, ...}

``step`` counts optimizer steps from 1 over all epochs. ``iter`` restarts in every epoch of a training by epochs; in an
evaluation it is the number of images. Both mmcv 1.x tools (keys ``mode``, ``epoch``, ``iter``) and mmdet 3.x's
``analyze_logs.py`` read the file. The latter pairs each value with a ``step`` of the same epoch, so evaluation records
must not have one.
"""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, master_only
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import LogProcessor, Runner

from mmcv_overrides.device import current
from mmcv_overrides.seams import Override

# Not losses: printed at a fixed place in the line, or not at all.
PLACED = ("lr", "time", "data_time", "loss", "grad_norm")
# Keys of a record that are not plotted over the steps.
NOT_CURVES = ("mode", "epoch", "iter", "step")


def log_line_follows(runner: Runner, batch_idx: int) -> bool:
    """Whether the logger writes a line after this iteration."""
    logger = next((h for h in runner.hooks if isinstance(h, LoggerHook)), None)
    interval = logger.interval if logger is not None else 1
    last = runner.iter + 1 >= runner.max_iters or batch_idx + 1 >= len(runner.train_dataloader)
    return (batch_idx + 1) % interval == 0 or last


class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """Keeps losses (0-d tensors) on the device until a log line is due: one read-back per line, not six per step."""

    def __init__(self) -> None:
        self._waiting: list[dict[str, torch.Tensor]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        """Store the losses of this step; read all stored ones back when a log line is due."""
        if outputs is not None:
            self._waiting.append({k: torch.as_tensor(v).detach().float() for k, v in outputs.items()})
        wrapper = runner.optim_wrapper
        if outputs is not None and hasattr(wrapper, "last_grad_norm"):
            self._waiting[-1]["grad_norm"] = wrapper.last_grad_norm
        if log_line_follows(runner, batch_idx) or current().module is None:
            self._flush(runner)

    def _flush(self, runner: Runner) -> None:
        """Read everything stored back at once, averaged over the ranks (grad_norm is equal on all of them)."""
        names = [key for losses in self._waiting for key in losses]
        if names:
            values = torch.stack([value.reshape(()) for losses in self._waiting for value in losses.values()])
            all_reduce(values, "mean")
            for key, value in zip(names, values.tolist()):
                runner.message_hub.update_scalar(f"train/{key}", value)
        self._waiting.clear()


def five_digits(value: float) -> float:
    """Round to five decimal places, as mmcv 1.x writes numbers into its JSON log."""
    return round(value, 5) if math.isfinite(value) else value


def json_value(value: Any) -> Any:
    """``value`` as written into the JSON log; a number that is not finite becomes a string, to stay valid JSON."""
    if isinstance(value, float):
        return five_digits(value) if math.isfinite(value) else str(value)
    return value


class ContractLogProcessor(LogProcessor):
    """Formats mmengine's numbers as mmcv 1.x does, since users' scripts parse these lines::

    Epoch [1][50/7330]<tab>lr: 1.250e-03, eta: 1:02:03, time: 0.310, ..., images/s: 3.30, FPS: 3.22, loss_cls: 0.51, ...
    Epoch(val) [1][72]<tab>bbox_mAP: 0.1260, bbox_mAP_50: 0.2500, ...
    """

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        """Returns the record and the text line of a training iteration."""
        if mode != "train":
            return super().get_log_after_iter(runner, batch_idx, mode)
        values = self._collect_scalars(self._parse_windows_size(runner, batch_idx, self.custom_cfg), runner, mode)
        losses = {k: v for k, v in values.items() if k not in PLACED and not k.endswith("/lr") and k != "base_lr"}
        losses.update({k: values[k] for k in ("loss", "grad_norm") if k in values})
        hub = runner.message_hub
        tag = {
            "mode": "train",
            "epoch": runner.epoch + 1,
            "iter": batch_idx + 1 if self.by_epoch else runner.iter + 1,
            "step": runner.iter + 1,
            "lr": values.get("lr", values.get("base_lr")),
            "time": values.get("time"),
            "data_time": values.get("data_time"),
            "images_per_s": hub.get_info("fps_window"),
            "fps": hub.get_info("fps"),
        }
        memory = current().memory_mb()
        if memory:
            tag["memory"] = memory
        head = (
            f"Epoch [{tag['epoch']}][{tag['iter']}/{len(runner.train_dataloader)}]"
            if self.by_epoch
            else f"Iter [{tag['iter']}/{runner.max_iters}]"
        )
        eta = datetime.timedelta(seconds=int(hub.get_info("eta") or 0))
        text = [f"lr: {tag['lr']:.3e}", f"eta: {eta}", f"time: {tag['time']:.3f}", f"data_time: {tag['data_time']:.3f}"]
        if memory:
            text.append(f"memory: {memory}")
        if tag["images_per_s"]:
            text.append(f"images/s: {five_digits(tag['images_per_s']):.2f}")
        if tag["fps"]:
            text.append(f"FPS: {five_digits(tag['fps']):.2f}")
        text += [f"{name}: {five_digits(value):.4f}" for name, value in losses.items()]
        tag.update(losses)
        return {k: v for k, v in tag.items() if v is not None}, f"{head}\t{', '.join(text)}"

    def get_log_after_epoch(
        self, runner: Runner, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict, str]:
        """Returns the record and the text line of an evaluation of ``batch_idx`` images."""
        metrics = {
            key.removeprefix(f"{mode}/"): value.current()
            for key, value in runner.message_hub.log_scalars.items()
            if key.startswith(f"{mode}/") and not key.endswith(("/time", "/data_time"))
        }
        epoch = runner.epoch if _trains(runner) else 0
        text = ", ".join(f"{name.split('/')[-1]}: {five_digits(value):.4f}" for name, value in metrics.items())
        tag = {"mode": mode, "epoch": epoch, "iter": batch_idx, **metrics}
        return tag, f"Epoch({mode}) [{epoch}][{batch_idx}]\t{text}"


def _trains(runner: Runner) -> bool:
    """Whether a training is under way: its loop has been built from the config."""
    return not (isinstance(runner._train_loop, dict) or runner._train_loop is None)


class ContractLoggerHook(LoggerHook):
    """mmengine's logger with ``<work_dir>/<timestamp>.log.json`` (one object per line), the global step as the x axis
    of every curve, and without the lines that repeat the experiment's name."""

    def __init__(self, interval: int = 10, **kwargs: Any) -> None:
        super().__init__(interval=interval, **kwargs)
        self.json_path: Path | None = None

    def before_run(self, runner: Runner) -> None:
        """Name the JSON log; the file is created with its first record."""
        super().before_run(runner)
        self.json_path = Path(runner.work_dir) / f"{runner.timestamp}.log.json"

    @master_only
    def _write(self, runner: Runner, tag: dict) -> None:
        """Append a record to the JSON log and its numbers to the curves."""
        assert self.json_path is not None, "before_run names it"
        with open(self.json_path, "a", encoding="utf-8") as file:
            file.write(json.dumps({k: json_value(v) for k, v in tag.items()}) + "\n")
        curves = {k: v for k, v in tag.items() if k not in NOT_CURVES and isinstance(v, (int, float))}
        prefix = tag["mode"]
        step = tag["step"] if prefix == "train" else runner.iter if _trains(runner) else 0
        runner.visualizer.add_scalars({f"{prefix}/{k}": v for k, v in curves.items()}, step=step)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        """Log a training line when one is due."""
        if log_line_follows(runner, batch_idx):
            tag, text = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
            runner.logger.info(text)
            self._write(runner, tag)

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
        self._after_evaluation(runner, len(runner.val_dataloader.dataset), "val")

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the numbers of an evaluation of its own."""
        self._after_evaluation(runner, len(runner.test_dataloader.dataset), "test")

    def _after_evaluation(self, runner: Runner, images: int, mode: str) -> None:
        tag, text = runner.log_processor.get_log_after_epoch(runner, images, mode)
        runner.logger.info(text)
        self._write(runner, tag)


OVERRIDES = [
    Override(
        "HOOKS:RuntimeInfoHook",
        DeferredRuntimeInfoHook,
        "losses are read back when a log line is due, not at every step",
    ),
    Override("LOG_PROCESSORS:LogProcessor", ContractLogProcessor, "log lines in the format that users' scripts parse"),
    Override("HOOKS:LoggerHook", ContractLoggerHook, "the same records as JSON lines, one per evaluation"),
]
