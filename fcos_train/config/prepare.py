"""From a config and a user's options to the config that the runner is built from."""

from __future__ import annotations

import os
from pathlib import Path

import mmengine.dist as dist
from mmengine.config import Config, ConfigDict

from fcos_train.config.dataset import checked_data, point_at_data, use_clear_loading
from fcos_train.config.options import TrainOptions
from fcos_train.config.pretrained import settle_pretrained
from fcos_train.config.schedule import safe_schedule, scale_learning_rate, set_length, total_iterations
from fcos_train.config.step_mode import set_step
from mmcv_overrides import device, precision


def prepare(
    cfg: Config, options: TrainOptions, accelerator: device.Accelerator, folder: Path, resume: str | None
) -> list[str]:
    """Complete the config of a training. Returns the lines that tell what was decided.

    Args:
        folder: where the training writes. resume: the checkpoint to go on from.

    Raises:
        UserError: anything that would make the run fail later.
    """
    notes: list[str] = []
    spec = checked_data(cfg, options, folder)
    images = 0
    if spec is not None:
        point_at_data(cfg, spec)
        images = spec.report.counts[spec.train.name]["images"]
        notes += spec.report.lines() if options.check else []
    use_clear_loading(cfg)
    notes += set_step(cfg, options, accelerator)
    set_loaders(cfg, options, accelerator)
    set_length(cfg, options)
    if not options.validate:
        drop_validation(cfg)
    world = dist.get_world_size()
    notes += [set_precision(cfg, options, accelerator), scale_learning_rate(cfg, options, world)]
    notes += safe_schedule(cfg, total_iterations(cfg, images, world))
    set_hooks(cfg, options)
    cfg["work_dir"] = str(folder)
    cfg.visualizer["save_dir"] = str(folder / "tb")
    cfg["launcher"] = options.launcher
    cfg["randomness"] = ConfigDict(seed=options.seed, deterministic=options.deterministic)
    cfg["resume"] = resume is not None
    cfg["load_from"] = resume or options.load_from or cfg.get("load_from")
    notes += settle_pretrained(cfg, "none" if cfg["load_from"] else options.pretrained)
    return notes


def set_precision(cfg: Config, options: TrainOptions, accelerator: device.Accelerator) -> str:
    """Put level, half type and loss scale into the optimizer wrapper. Returns the line for the log."""
    wrapper = cfg.optim_wrapper
    half = precision.half_dtype(options.opt_level, accelerator, options.amp_dtype)
    for key in ("dtype", "use_fsdp"):
        wrapper.pop(key, None)
    wrapper.update(type="OptimWrapper", opt_level=options.opt_level, loss_scale=options.loss_scale)
    if half is not None:
        wrapper["amp_dtype"] = str(half).removeprefix("torch.")
    return f"{precision.describe(options.opt_level, accelerator, half)}; loss scale {options.loss_scale}"


def set_loaders(cfg: Config, options: TrainOptions, accelerator: device.Accelerator) -> None:
    """Batch size and workers: as many as the cores of this rank allow, none persistent on an NPU."""
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cores = max(device.cores() // local_ranks, 1)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = cfg.get(name)
        if loader is None:
            continue
        if options.batch_size and name == "train_dataloader":
            loader["batch_size"] = options.batch_size
        most = max(cores - 1, 1) if accelerator.name == "cpu" else cores
        loader["num_workers"] = min(loader.get("num_workers", 0), most) if options.workers is None else options.workers
        # Persistent workers exhaust resources on an NPU in the last epochs (mmdet 2.28 NPU notes).
        loader["persistent_workers"] = loader["num_workers"] > 0 and accelerator.name != "npu"
        if accelerator.name == "cpu":
            loader["pin_memory"] = False


def set_hooks(cfg: Config, options: TrainOptions) -> None:
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    checkpoint = hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook", interval=1))
    if options.validate and cfg.get("val_evaluator") is not None:
        checkpoint.setdefault("save_best", "bbox_mAP")
        checkpoint.setdefault("rule", "greater")
        if "/" in str(checkpoint["save_best"]):  # "coco/bbox_mAP" of mmdet's metric
            checkpoint["save_best"] = str(checkpoint["save_best"]).split("/")[-1]
    else:
        checkpoint.pop("save_best", None)
        checkpoint.pop("rule", None)
    checkpoint.setdefault("max_keep_ckpts", 3)
    custom = [ConfigDict(h) for h in cfg.get("custom_hooks") or []]
    present = {h.get("type") for h in custom}
    if "NonFiniteGuardHook" not in present:
        custom.append(ConfigDict(type="NonFiniteGuardHook"))
    cfg["custom_hooks"] = custom
    # Without a name of its own it gets the run's; under one name a second run of a process would get the first one's.
    cfg["visualizer"] = ConfigDict(type="DetLocalVisualizer", vis_backends=[dict(type="TensorboardVisBackend")])


def drop_validation(cfg: Config) -> None:
    for name in ("val_dataloader", "val_evaluator", "val_cfg"):
        cfg[name] = None
    cfg.train_cfg.pop("val_interval", None)
