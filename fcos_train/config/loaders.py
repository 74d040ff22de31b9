"""Batch size, workers and memory of the data loaders, as the device and the cores of a rank allow."""

from __future__ import annotations

import os

from mmengine.config import Config, ConfigDict

from fcos_train.config.options import EvalOptions, TrainOptions
from mmcv_overrides.device import Accelerator, cores

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def set_loaders(cfg: Config, options: TrainOptions | EvalOptions, accelerator: Accelerator) -> list[str]:
    """Batch size and workers as the options say, else as the config says, no more workers than there are cores.

    ``batch_size`` is that of training for :class:`TrainOptions`, of testing for :class:`EvalOptions`.

    Returns:
        lines for the log: what the config says and is not taken.
    """
    own = max(cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)
    most = max(own - 1, 1) if accelerator.name == "cpu" else own
    batched = "test_dataloader" if isinstance(options, EvalOptions) else "train_dataloader"
    notes = []
    for name in LOADERS:
        loader = cfg.get(name)
        if loader is None:
            continue
        if options.batch_size and name == batched:
            loader["batch_size"] = options.batch_size
            if "batch_size" in (loader.get("sampler") or {}):  # of labelled and unlabelled images in one batch
                loader.sampler["batch_size"] = options.batch_size
        notes += [f"{name}: {line}" for line in _set_workers(loader, options.workers, most, accelerator.name)]
    return notes


def _set_workers(loader: ConfigDict, given: int | None, most: int, device: str) -> list[str]:
    """Workers of one loader, and what depends on them. Returns what is not taken from the config."""
    notes = []
    configured = loader.get("num_workers", 0)
    loader["num_workers"] = min(configured, most) if given is None else given
    if given is None and configured > most:
        notes.append(f"num_workers {configured} -> {most}: cores of this rank (--workers sets any number)")
    persistent = loader.get("persistent_workers")
    if loader["num_workers"] == 0:
        loader["persistent_workers"] = False  # torch refuses it without workers
        if loader.pop("prefetch_factor", None) is not None:
            notes.append("prefetch_factor is left out: there are no workers")
    elif device == "npu":
        # Persistent workers exhaust resources on an NPU in the last epochs (mmdet 2.28 NPU notes).
        loader["persistent_workers"] = False
        if persistent:
            notes.append("persistent_workers True -> False: they exhaust resources on an NPU in the last epochs")
    else:
        loader["persistent_workers"] = True if persistent is None else bool(persistent)
    if device == "cpu":
        if loader.get("pin_memory"):
            notes.append("pin_memory True -> False: nothing is copied to a device")
        loader["pin_memory"] = False
    return notes
