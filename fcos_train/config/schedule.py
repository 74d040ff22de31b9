"""Length of a training, its learning rate, warm-up and gradient clipping."""

from __future__ import annotations

import math

from mmengine.config import Config, ConfigDict

from fcos_train.config.load import walk
from fcos_train.config.options import TrainOptions
from mmcv_overrides.errors import UserError

WARMUP_ITERS = 500
CLIP = {"max_norm": 35, "norm_type": 2}


def total_iterations(cfg: Config, images: int, world_size: int) -> int | None:
    """Planned steps of the whole schedule; None if they do not follow from the number of images.

    ``--max-iters`` cuts a run short without changing its schedule, so that it can be resumed as if never stopped.
    """
    train = cfg.train_cfg
    if "max_epochs" not in train:
        return train.get("max_iters")
    if not images:
        return None
    return int(train.max_epochs) * math.ceil(images / (cfg.train_dataloader.batch_size * world_size))


def scale_learning_rate(cfg: Config, options: TrainOptions, world_size: int) -> str:
    """Linear scaling (Goyal et al. 2017): lr x global batch / base batch. Returns the line for the log.

    A learning rate that the user gave is taken as it is.
    """
    optimizer = cfg.optim_wrapper.optimizer
    scale = cfg.get("auto_scale_lr") or {}
    batch = cfg.train_dataloader.batch_size * world_size * cfg.optim_wrapper.get("accumulative_counts", 1)
    base = options.lr_base or scale.get("base_batch_size") or 16
    # Not a second time by mmengine, nor by a training that starts from the config that this one writes.
    cfg["auto_scale_lr"] = ConfigDict(enable=False, base_batch_size=batch)
    given = options.lr is not None or any(k.endswith("optimizer.lr") for k in options.cfg_options)
    # mmdet's configs all carry enable=False, so only a value that this user gave decides.
    off = options.cfg_options.get("auto_scale_lr.enable") is False
    if given or off or not options.auto_lr:
        return f"learning rate {optimizer.lr:g} as {'given' if given else 'configured'} (global batch {batch})"
    before = optimizer.lr
    optimizer["lr"] = before * batch / base
    reason = f"global batch {batch} / base batch {base}; --no-auto-lr keeps it"
    return f"learning rate {before:g} -> {optimizer.lr:g} ({reason})"


def safe_schedule(cfg: Config, total: int | None) -> list[str]:
    """Warm-up and gradient clipping on by default, warm-up no longer than a tenth of the run. Returns log lines."""
    notes = []
    wrapper = cfg.optim_wrapper
    if "clip_grad" not in wrapper:  # an explicit None means no clipping
        wrapper["clip_grad"] = ConfigDict(CLIP)
        notes.append(f"gradient clip on: max_norm {CLIP['max_norm']} (the config has none)")
    schedulers = cfg.get("param_scheduler") or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else list(schedulers)
    warmups = [s for s in schedulers if s.get("type") in ("LinearLR", "ConstantLR") and not s.get("by_epoch", True)]
    if not warmups:
        warmups = [ConfigDict(type="LinearLR", start_factor=1.0 / 3, by_epoch=False, begin=0, end=WARMUP_ITERS)]
        schedulers = warmups + schedulers
        notes.append(f"warm-up on: {WARMUP_ITERS} iterations from a third of the learning rate (the config has none)")
    limit = max(total // 10, 1) if total else None
    for warmup in warmups:
        if limit and warmup.get("begin", 0) == 0 and warmup.get("end", 0) > limit:
            notes.append(f"warm-up shortened from {warmup['end']} to {limit} iterations, a tenth of the run")
            warmup["end"] = limit
    cfg["param_scheduler"] = schedulers
    return notes


def set_length(cfg: Config, options: TrainOptions) -> None:
    """``--max-epochs`` moves the learning-rate milestones along; ``--max-iters`` only cuts the run short."""
    train = cfg.train_cfg
    by_epoch = train.get("type", "EpochBasedTrainLoop") == "EpochBasedTrainLoop" and "max_epochs" in train
    if options.max_epochs is not None:
        if not by_epoch:
            raise UserError("--max-epochs: this config counts iterations; use --max-iters")
        factor = options.max_epochs / train.max_epochs
        for scheduler in walk(cfg.get("param_scheduler") or []):
            if scheduler.get("by_epoch", True):
                _stretch(scheduler, factor)
        train["max_epochs"] = options.max_epochs
        train["val_interval"] = min(train.get("val_interval", 1), options.max_epochs)
    if options.max_iters is not None:
        if by_epoch:
            train["type"] = "EpochBasedTrainLoop"
            train.pop("by_epoch", None)
        train["max_iters"] = options.max_iters


def _stretch(scheduler: ConfigDict, factor: float) -> None:
    for key in ("begin", "end", "T_max", "step_size"):
        if scheduler.get(key):
            scheduler[key] = max(round(scheduler[key] * factor), 1)
    if scheduler.get("milestones"):
        scheduler["milestones"] = sorted({max(round(m * factor), 1) for m in scheduler["milestones"]})
