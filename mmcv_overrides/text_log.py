"""Log lines in the format that users' scripts parse, and deferred read-back of losses."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import IterBasedTrainLoop, LogProcessor, Runner

from mmcv_overrides.device import current
from mmcv_overrides.seams import Override

# Not losses: printed at a fixed place in the line, or not at all.
PLACED = ("lr", "base_lr", "time", "data_time", "loss", "grad_norm")
# An attribute of log records, for ``extra=``: the numbers of a line that scripts read. A terminal may show them in
# another form (fcos_train/engine/terminal.py); a line without numbers of its own repeats those of others.
NUMBERS = "numbers"
FOR_SCRIPTS: dict[str, dict] = {NUMBERS: {}}
# Keys of a record that are not plotted.
NOT_CURVES = ("mode", "step")


def log_line_follows(runner: Runner, batch_idx: int) -> bool:
    """Whether a logger writes a line after this iteration."""
    loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
    return any(_is_due(logger, runner, batch_idx) for logger in loggers) if loggers else True


def _is_due(logger: LoggerHook, runner: Runner, batch_idx: int) -> bool:
    """As in upstream's hook: every ``interval`` iterations and, unless ``ignore_last``, at the end."""
    if (batch_idx + 1) % logger.interval == 0:
        return True
    last = getattr(runner, "max_iters", None)  # a loop of the user's own may have no end
    if last is not None and runner.iter + 1 >= last:
        return not logger.ignore_last
    # A loop by iterations counts on over all passes through the data; ``batch_idx`` says nothing about their ends.
    length = None if _by_iterations(runner) else _length(runner.train_dataloader)
    return batch_idx + 1 == length and (not logger.ignore_last or length <= logger.interval)


def _by_iterations(runner: Runner) -> bool:
    return isinstance(getattr(runner, "_train_loop", None), IterBasedTrainLoop)


def _length(loader: Any) -> int | None:
    """Number of batches; None for a stream of data."""
    try:
        return len(loader)
    except TypeError:
        return None


class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """Keeps losses (0-d tensors) on the device until a log line is due: one read-back per line, not six per step."""

    def __init__(self) -> None:
        self._waiting: list[dict[str, Any]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        """Store the losses of this step; read all stored ones back when a log line is due."""
        if outputs is not None:
            self._waiting.append({k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in outputs.items()})
        wrapper = runner.optim_wrapper
        if outputs is not None and hasattr(wrapper, "last_grad_norm"):
            self._waiting[-1]["grad_norm"] = wrapper.last_grad_norm
        if log_line_follows(runner, batch_idx) or current().module is None:
            self._flush(runner)

    def _flush(self, runner: Runner) -> None:
        """Read everything stored back at once, averaged over the ranks (grad_norm is equal on all of them)."""
        entries = [(key, value) for losses in self._waiting for key, value in losses.items()]
        self._waiting.clear()
        tensors = [value for _, value in entries if isinstance(value, torch.Tensor)]
        read: Iterator[float] = iter(())
        if tensors:
            device = next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)
            values = torch.stack([t.reshape(()).float().to(device, non_blocking=True) for t in tensors])
            all_reduce(values, "mean")
            read = iter(values.tolist())
        for key, value in entries:
            number = next(read) if isinstance(value, torch.Tensor) else value
            runner.message_hub.update_scalar(f"train/{key}", number)


def five_digits(value: float) -> float:
    """Round to five decimal places, as mmcv 1.x writes numbers into its JSON log."""
    return round(value, 5) if math.isfinite(value) else value


def json_value(value: Any) -> Any:
    """``value`` as written into the JSON log, of any type that a metric may have.

    A number that is not finite becomes a string, to stay valid JSON; so does a value that JSON does not know.
    """
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, float):
        return five_digits(value) if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [json_value(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def metric_text(value: Any) -> str:
    """``value`` as printed into the line of an evaluation."""
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.dim() == 0):
        value = value.item()
    if isinstance(value, float):
        return f"{five_digits(value):.4f}"
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"\n{value}\n"  # as upstream prints arrays
    return str(value)


class ContractLogProcessor(LogProcessor):
    """Formats mmengine's numbers as mmcv 1.x does, since users' scripts parse these lines::

    Epoch [1][50/7330]<tab>lr: 1.250e-03, eta: 1:02:03, time: 0.310, data_time: 0.010, FPS: 3.22, loss_cls: 0.51, ...
    Epoch(val) [1][72]<tab>bbox_mAP: 0.1260, bbox_mAP_50: 0.2500, ...

    FPS is the one figure of speed in a line: that of the run so far, see :mod:`mmcv_overrides.timer`. The JSON log also
    has ``images_per_s``, the same since the last line and with the warm-up.
    """

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        """Returns the record and the text line of a training iteration."""
        if mode != "train":
            return super().get_log_after_iter(runner, batch_idx, mode)
        values = self._collect_scalars(self._parse_windows_size(runner, batch_idx, self.custom_cfg), runner, mode)
        rates = _learning_rates(values)
        losses = {k: v for k, v in values.items() if k not in PLACED and not k.endswith(("/lr", ".lr", ".base_lr"))}
        losses.update({k: values[k] for k in ("loss", "grad_norm") if k in values})
        hub = runner.message_hub
        by_epoch = self.by_epoch and _length(runner.train_dataloader) is not None
        tag = {
            "mode": "train",
            "epoch": runner.epoch + 1,
            "iter": batch_idx + 1 if by_epoch else runner.iter + 1,
            "step": runner.iter + 1,
            **rates,
            "time": values.get("time"),
            "data_time": values.get("data_time"),
            "images_per_s": hub.get_info("fps_window"),
            "fps": hub.get_info("fps"),
            "memory": current().memory_mb() or None,
        }
        head = (
            f"Epoch [{tag['epoch']}][{tag['iter']}/{len(runner.train_dataloader)}]"
            if by_epoch
            else f"Iter [{tag['iter']}/{runner.max_iters}]"
        )
        eta = datetime.timedelta(seconds=int(hub.get_info("eta") or 0))
        text = [f"{name}: {rate:.3e}" for name, rate in rates.items()]
        if tag["time"] is not None:
            text += [f"eta: {eta}", f"time: {tag['time']:.3f}", f"data_time: {tag['data_time'] or 0:.3f}"]
        if tag["memory"]:
            text.append(f"memory: {tag['memory']}")
        if tag["fps"]:
            text.append(f"FPS: {five_digits(tag['fps']):.2f}")
        text += [f"{name}: {five_digits(value):.4f}" for name, value in losses.items()]
        tag.update(losses)
        return {k: v for k, v in tag.items() if v is not None}, f"{head}\t{', '.join(text)}"

    def get_log_after_epoch(
        self, runner: Runner, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict, str]:
        """Returns the record and the text line of an evaluation of ``batch_idx`` images."""
        hub = runner.message_hub
        scalars = {
            key.removeprefix(f"{mode}/"): value.current()
            for key, value in hub.log_scalars.items()
            if key.startswith(f"{mode}/") and not key.endswith(("/time", "/data_time"))
        }
        settings = self._parse_windows_size(runner, batch_idx, self.custom_cfg)
        collected = self._collect_scalars(settings, runner, mode)
        for setting in settings:  # statistics that the config asks for
            name = setting.get("log_name", setting["data_src"])
            if name in collected:
                scalars[name] = collected[name]
        others = {k.removeprefix(f"{mode}/"): v for k, v in hub.runtime_info.items() if k.startswith(f"{mode}/")}
        epoch = runner.epoch if trains(runner) else 0
        text = [f"{name.split('/')[-1]}: {metric_text(value)}" for name, value in {**scalars, **others}.items()]
        tag = {"mode": mode, "epoch": epoch, "iter": batch_idx, **scalars, **(others if with_non_scalar else {})}
        return tag, f"Epoch({mode}) [{epoch}][{batch_idx}]\t{', '.join(text)}"


def _learning_rates(values: dict) -> dict:
    """The learning rate; of several optimizers, one for each, under the optimizer's name."""
    if "lr" in values or "base_lr" in values:
        return {"lr": values.get("lr", values.get("base_lr"))}
    return {name: value for name, value in values.items() if name.endswith(".lr")}


def trains(runner: Runner) -> bool:
    """Whether a training is under way: its loop has been built from the config."""
    return not (isinstance(runner._train_loop, dict) or runner._train_loop is None)


OVERRIDES = [
    Override(
        "HOOKS:RuntimeInfoHook",
        DeferredRuntimeInfoHook,
        "losses are read back when a log line is due, not at every step",
    ),
    Override("LOG_PROCESSORS:LogProcessor", ContractLogProcessor, "log lines in the format that users' scripts parse"),
]
