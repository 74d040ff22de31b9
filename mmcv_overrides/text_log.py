"""Log lines in the form that users' scripts harvest, their JSON twin, and losses read back only when a line is due."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path

import torch
from mmengine.dist import all_reduce, master_only
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.runner import LogProcessor

from mmcv_overrides.device import current
from mmcv_overrides.seams import Override

# Not scalars of the step, or printed at a fixed place in the line.
PLACED = ("lr", "time", "data_time", "loss", "grad_norm")


def log_line_follows(runner, batch_idx: int) -> bool:
    """True when the logger prints a line after this iteration."""
    logger = next((h for h in runner.hooks if isinstance(h, LoggerHook)), None)
    interval = logger.interval if logger is not None else 1
    last = runner.iter + 1 >= runner.max_iters or batch_idx + 1 >= len(runner.train_dataloader)
    return (batch_idx + 1) % interval == 0 or last


class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """Upstream's, but losses wait on the device until a log line needs them: one read-back per line, not six per step."""

    def __init__(self):
        self._waiting: list[dict[str, torch.Tensor]] = []

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if outputs is not None:
            self._waiting.append({k: torch.as_tensor(v).detach().float() for k, v in outputs.items()})
        wrapper = runner.optim_wrapper
        if outputs is not None and hasattr(wrapper, "last_grad_norm"):
            self._waiting[-1]["grad_norm"] = wrapper.last_grad_norm
        if log_line_follows(runner, batch_idx) or current().module is None:
            self._flush(runner)

    def _flush(self, runner) -> None:
        """One read-back of everything that waits, averaged over the ranks (grad_norm is theirs already)."""
        names = [key for losses in self._waiting for key in losses]
        if names:
            values = torch.stack([value.reshape(()) for losses in self._waiting for value in losses.values()])
            all_reduce(values, "mean")
            for key, value in zip(names, values.tolist()):
                runner.message_hub.update_scalar(f"train/{key}", value)
        self._waiting.clear()


class ContractLogProcessor(LogProcessor):
    """The text of mmcv 1.x, which scripts grep, from mmengine's numbers::

    Epoch [1][50/7330]<tab>lr: 1.250e-03, eta: 1:02:03, time: 0.310, ..., images/s: 3.30, FPS: 3.22, loss_cls: 0.51, ...
    Epoch(val) [1][72]<tab>bbox_mAP: 0.1260, bbox_mAP_50: 0.2500, ...
    """

    def get_log_after_iter(self, runner, batch_idx: int, mode: str) -> tuple[dict, str]:
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
            text.append(f"images/s: {tag['images_per_s']:.2f}")
        if tag["fps"]:
            text.append(f"FPS: {tag['fps']:.2f}")
        text += [f"{name}: {value:.4f}" for name, value in losses.items()]
        tag.update(losses)
        return {k: v for k, v in tag.items() if v is not None}, f"{head}\t{', '.join(text)}"

    def get_log_after_epoch(self, runner, batch_idx: int, mode: str, with_non_scalar: bool = False) -> tuple[dict, str]:
        metrics = {
            key.removeprefix(f"{mode}/"): value.current()
            for key, value in runner.message_hub.log_scalars.items()
            if key.startswith(f"{mode}/") and not key.endswith(("/time", "/data_time"))
        }
        trained = not (isinstance(runner._train_loop, dict) or runner._train_loop is None)
        epoch = runner.epoch if trained else 0
        text = ", ".join(f"{name.split('/')[-1]}: {value:.4f}" for name, value in metrics.items())
        tag = {"mode": mode, "epoch": epoch, "iter": batch_idx, **metrics}
        if trained:
            tag["step"] = runner.iter
        return tag, f"Epoch({mode}) [{epoch}][{batch_idx}]\t{text}"


def rounded(value):
    """Numbers as the JSON log of mmcv 1.x writes them: five digits; a value that is not finite becomes a string."""
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else str(value)
    return value


class ContractLoggerHook(LoggerHook):
    """Upstream's logger with ``<work_dir>/<timestamp>.log.json`` (one object per line), the global iteration as the
    step of every curve, and without the experiment-name lines."""

    def __init__(self, interval: int = 10, **kwargs):
        super().__init__(interval=interval, **kwargs)
        self.json_path: Path | None = None

    def before_run(self, runner) -> None:
        super().before_run(runner)
        self.json_path = Path(runner.work_dir) / f"{runner.timestamp}.log.json"

    @master_only
    def _write(self, runner, tag: dict) -> None:
        with open(self.json_path, "a", encoding="utf-8") as file:
            file.write(json.dumps({k: rounded(v) for k, v in tag.items()}) + "\n")
        curves = {
            k: v for k, v in tag.items() if k not in ("mode", "epoch", "iter", "step") and isinstance(v, (int, float))
        }
        prefix = tag["mode"]
        step = runner.iter + 1 if prefix == "train" else tag.get("step", 0)
        runner.visualizer.add_scalars({f"{prefix}/{k}": v for k, v in curves.items()}, step=step)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if log_line_follows(runner, batch_idx):
            tag, text = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
            runner.logger.info(text)
            self._write(runner, tag)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """One line per evaluation, not per interval of it."""

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """One line per evaluation, not per interval of it."""

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._after_evaluation(runner, len(runner.val_dataloader.dataset), "val")

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._after_evaluation(runner, len(runner.test_dataloader.dataset), "test")

    def _after_evaluation(self, runner, images: int, mode: str) -> None:
        tag, text = runner.log_processor.get_log_after_epoch(runner, images, mode)
        runner.logger.info(text)
        self._write(runner, tag)


OVERRIDES = [
    Override(
        "HOOKS:RuntimeInfoHook",
        DeferredRuntimeInfoHook,
        "losses are read back when a log line is due, not at every step",
    ),
    Override("LOG_PROCESSORS:LogProcessor", ContractLogProcessor, "the text that users' scripts harvest"),
    Override("HOOKS:LoggerHook", ContractLoggerHook, "the JSON-lines twin, one line per evaluation"),
]
