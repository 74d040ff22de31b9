"""Optimizer, learning rate, length and hooks of an mmdet 2.x configuration, for mmdet 3.x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fcos_train.config.keys.v2 import WARMUP_TYPES
from mmcv_overrides.errors import UserError

Part = dict[str, Any]
Say = Callable[[str], None]
BATCH = 16  # images of the global batch that the learning rates of mmdet's configurations are meant for
# Hooks that 3.x has no need of -> why.
NEEDLESS_HOOKS = {
    "NumClassCheckHook": "the number of classes follows the data",
    "CheckInvalidLossHook": "always checked",
}
OPTIMIZERS = {"NpuFusedSGD": "SGD", "NpuFusedAdamW": "AdamW", "NpuFusedAdam": "Adam"}


def modern_training(old: Part, say: Say) -> Part:
    """``optim_wrapper``, ``param_scheduler``, ``train_cfg`` and the hooks of a training.

    Args:
        old: the whole configuration, plain values.

    Raises:
        UserError: a schedule or hook that has no counterpart.
    """
    runner = old.get("runner") or {}
    by_epoch = "Iter" not in str(runner.get("type", ""))
    epochs = runner.get("max_epochs", old.get("total_epochs", 12))
    iterations = runner.get("max_iters", old.get("total_iters"))
    length = epochs if by_epoch else iterations
    evaluation, saving = old.get("evaluation") or {}, old.get("checkpoint_config") or {}
    loop: Part = {"type": "EpochBasedTrainLoop", "max_epochs": epochs, "val_interval": evaluation.get("interval", 1)}
    if not by_epoch:
        loop = {"type": "IterBasedTrainLoop", "max_iters": iterations, "val_interval": evaluation.get("interval", 1)}
    checkpoint = {"type": "CheckpointHook", "interval": saving.get("interval", 1), "by_epoch": by_epoch}
    kept = saving.get("max_keep_ckpts")
    checkpoint.update({} if kept is None else {"max_keep_ckpts": kept})
    checkpoint.update({key: evaluation[key] for key in ("save_best", "rule") if evaluation.get(key) is not None})
    log = {"type": "LoggerHook", "interval": (old.get("log_config") or {}).get("interval", 50)}
    say(f"optimizer, optimizer_config, lr_config, runner -> optim_wrapper, param_scheduler, train_cfg ({length} "
        f"{'epochs' if by_epoch else 'iterations'})")  # fmt: skip
    return {
        "train_cfg": loop,
        "optim_wrapper": _wrapper(old, say),
        "param_scheduler": _schedulers(old.get("lr_config") or {}, length, by_epoch),
        "auto_scale_lr": old.get("auto_scale_lr") or {"base_batch_size": BATCH},
        "default_hooks": {"checkpoint": checkpoint, "logger": log},
        "custom_hooks": _hooks(old.get("custom_hooks") or [], say),
        "log_processor": {"type": "LogProcessor", "window_size": 50, "by_epoch": by_epoch},
    }


def _wrapper(old: Part, say: Say) -> Part:
    optimizer = dict(old.get("optimizer") or {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0001})
    config = old.get("optimizer_config") or {}
    wrapper: Part = {"type": "OptimWrapper"}
    kind = str(optimizer.get("type", "SGD"))
    if kind in OPTIMIZERS:
        optimizer["type"] = OPTIMIZERS[kind]
        say(f"optimizer.type={kind} -> {OPTIMIZERS[kind]}: this trainer fuses the step itself")
    for key in ("paramwise_cfg", "constructor"):
        if optimizer.get(key) is not None:
            wrapper[key] = optimizer[key]
        optimizer.pop(key, None)
    wrapper["optimizer"] = optimizer
    if config.get("grad_clip"):
        wrapper["clip_grad"] = dict(config["grad_clip"])
    steps = config.get("cumulative_iters") or config.get("update_interval", 1)
    if steps > 1:
        wrapper["accumulative_counts"] = steps
    half = old.get("fp16") or ({"loss_scale": "dynamic"} if config.get("use_fp16") else None)
    if half:
        scale = half.get("loss_scale", 512.0)
        wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic" if isinstance(scale, dict) else scale)
        say(f"fp16 -> optim_wrapper.type=AmpOptimWrapper, loss_scale={wrapper['loss_scale']}")
    return wrapper


def _schedulers(lr: Part, length: Any, by_epoch: bool) -> list[Part]:
    """Warm-up and main schedule. In 2.x the schedule of an epoch runner counts epochs, its warm-up iterations."""
    by_epoch = by_epoch and lr.get("by_epoch", True)
    found: list[Part] = []
    start = 0
    if lr.get("warmup"):
        found.append(_warmup(lr))
        start = found[0]["end"] if found[0]["by_epoch"] == by_epoch else 0
    policy = str(lr.get("policy", "fixed")).lower()
    place = {"by_epoch": by_epoch, "begin": 0 if policy == "step" else start, "end": length}
    if policy == "step":
        steps = lr.get("step", [])
        if isinstance(steps, int):
            found.append({"type": "StepLR", "step_size": steps, "gamma": lr.get("gamma", 0.1), **place})
        else:
            found.append({"type": "MultiStepLR", "milestones": list(steps), "gamma": lr.get("gamma", 0.1), **place})
    elif policy == "cosineannealing":
        least = {"eta_min_ratio": lr["min_lr_ratio"]} if lr.get("min_lr_ratio") is not None else {}
        least = least or {"eta_min": lr.get("min_lr") or 0}
        found.append({"type": "CosineAnnealingLR", "T_max": length - place["begin"], **least, **place})
    elif policy == "poly":
        found.append({"type": "PolyLR", "power": lr.get("power", 1.0), "eta_min": lr.get("min_lr", 0.0), **place})
    elif policy != "fixed":
        raise UserError(
            f"lr_config.policy={lr.get('policy')} of this mmdet 2.x configuration is not translated (step, "
            "CosineAnnealing, poly and fixed are); write it as a config of mmdet 3.x with param_scheduler"
        )
    return found


def _warmup(lr: Part) -> Part:
    if lr["warmup"] not in WARMUP_TYPES:
        raise UserError(
            f"lr_config.warmup={lr['warmup']} of this mmdet 2.x configuration is not translated "
            f"({' and '.join(WARMUP_TYPES)} are); write it as a config of mmdet 3.x with param_scheduler"
        )
    kind, factor = WARMUP_TYPES[lr["warmup"]]
    in_epochs = bool(lr.get("warmup_by_epoch", False))
    end = lr.get("warmup_iters", 0)
    return {"type": kind, factor: lr.get("warmup_ratio", 0.1), "by_epoch": in_epochs, "begin": 0, "end": end}


def _hooks(hooks: list[Part], say: Say) -> list[Part]:
    found = []
    for hook in hooks:
        kind = str(hook.get("type", ""))
        if kind in NEEDLESS_HOOKS:
            say(f"custom_hooks: {kind} -> nothing: {NEEDLESS_HOOKS[kind]}")
        elif kind in ("YOLOXModeSwitchHook", "SyncNormHook"):
            found.append({k: v for k, v in hook.items() if k != "priority" or kind == "YOLOXModeSwitchHook"})
        elif kind.endswith("EMAHook"):
            ema = {"type": "ExpMomentumEMA" if kind.startswith("Exp") else "ExponentialMovingAverage"}
            ema["momentum"] = hook.get("momentum", 0.0002)
            found.append({"type": "EMAHook", "ema_type": ema["type"], "momentum": ema["momentum"], "priority": 49})
            say(f"custom_hooks: {kind} -> EMAHook")
        else:
            found.append(dict(hook))
    return found
