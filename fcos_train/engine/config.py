"""From a config name and a user's options to the config that the runner is built from."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from fcos_train.data.spec import DataSpec
from fcos_train.engine.options import TrainOptions
from mmcv_overrides import device, precision
from mmcv_overrides.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
WARMUP_ITERS = 500
CLIP = {"max_norm": 35, "norm_type": 2}


def config_folders() -> dict[str, Path]:
    """Where configs are found: ours (beside the code, or installed within it), and those that mmdet carries."""
    import mmdet

    beside, within = ROOT / "configs", Path(__file__).resolve().parents[1] / "configs"
    return {"": beside if beside.is_dir() else within, "mmdet::": Path(mmdet.__file__).parent / ".mim" / "configs"}


def find_config(name: str) -> Path:
    """Path of a config given by path, by name within ``configs/``, or as ``mmdet::folder/name``.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    if Path(name).is_file():
        return Path(name)
    prefix = "mmdet::" if name.startswith("mmdet::") else ""
    folder = config_folders()[prefix]
    wanted = name.removeprefix(prefix).removeprefix("configs/")
    for candidate in (folder / wanted, folder / f"{wanted}.py"):
        if candidate.is_file():
            return candidate
    known = [str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.py") if "_base_" not in p.parts]
    near = difflib.get_close_matches(wanted.removesuffix(".py"), known, n=3, cutoff=0.5)
    near = near or [k for k in known if Path(k).name == Path(wanted).stem][:3]
    hint = f"; did you mean {', '.join(prefix + n for n in near)}?" if near else ""
    raise UserError(f"no config '{name}' (looked for a file and in {folder}){hint}")


def load_config(name: str, safe: bool = False) -> Config:
    """Read a config, with one clear message when it is broken.

    Args:
        name: see :func:`find_config`.
        safe: read it as data, see :mod:`.safe_config`; otherwise a ``.py`` file is a program that runs.

    Raises:
        UserError: not found, not Python, an mmdet 2.x config, or ``safe`` and more than data.
    """
    from fcos_train.engine import safe_config
    from fcos_train.engine.config_keys import reject_v2_file

    path = find_config(name)
    try:
        cfg = safe_config.load(path) if safe else Config.fromfile(str(path))
    except UserError as error:
        message = str(error)
        if str(path) in message:
            raise
        raise UserError(f"config {path}, or one of its bases: {message.removeprefix('config ')}") from error
    except Exception as error:
        raise UserError(f"config {path} cannot be read: {type(error).__name__}: {error}") from error
    reject_v2_file(cfg)
    return cfg


# ---- walking a config ----


def walk(node: Any) -> Iterator[ConfigDict]:
    """Every dict within a config, outermost first."""
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from walk(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from walk(value)


def leaf_datasets(dataset: ConfigDict) -> list[ConfigDict]:
    """The data sets that read files, inside wrappers such as RepeatDataset, ConcatDataset, MultiImageMixDataset."""
    if "datasets" in dataset:
        return [leaf for inner in dataset.datasets for leaf in leaf_datasets(inner)]
    if isinstance(dataset.get("dataset"), dict):
        return leaf_datasets(dataset.dataset)
    return [dataset]


# ---- data ----


def point_at_data(cfg: Config, spec: DataSpec) -> None:
    """Let every loader read ``spec``, and the class names and ``num_classes`` follow from it: the one place for both."""
    for loader, split in (
        ("train_dataloader", spec.train),
        ("val_dataloader", spec.val),
        ("test_dataloader", spec.val),
    ):
        if cfg.get(loader) is None:
            continue
        for leaf in leaf_datasets(cfg[loader].dataset):
            leaf.update(
                type="BoxDataset",
                data_root=None,
                ann_file=str(split.ann_file),
                data_prefix=dict(img=str(split.img_dir)),
                metainfo=dict(classes=tuple(spec.classes)),
            )
            for key in ("img_subdir", "ann_subdir"):  # of XMLDataset
                leaf.pop(key, None)
    for evaluator in ("val_evaluator", "test_evaluator"):
        if cfg.get(evaluator) is not None:
            cfg[evaluator] = ConfigDict(type="FastCocoMetric", ann_file=str(spec.val.ann_file))
    for part in walk(cfg.model):
        if "num_classes" in part:
            part["num_classes"] = len(spec.classes)


def use_clear_loading(cfg: Config) -> None:
    """An image that cannot be read ends in a message that names it."""
    for part in walk({k: v for k, v in cfg.items() if k.endswith("_dataloader")}):
        if part.get("type") in ("LoadImageFromFile", "mmdet.LoadImageFromFile"):
            part["type"] = "LoadImage"


# ---- training ----


def total_iterations(cfg: Config, images: int, world_size: int) -> int | None:
    """Planned steps of the whole schedule, None when they can't be known from the number of images.

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
    cfg["auto_scale_lr"] = ConfigDict(enable=False, base_batch_size=base)  # mmengine would scale a second time
    given = any(k.endswith("optimizer.lr") for k in options.cfg_options)
    if given or not options.auto_lr:
        return f"learning rate {optimizer.lr:g} as {'given' if given else 'configured'} (global batch {batch})"
    before = optimizer.lr
    optimizer["lr"] = before * batch / base
    return f"learning rate {before:g} -> {optimizer.lr:g} (global batch {batch} / base batch {base}; --no-auto-lr keeps it)"


def safe_schedule(cfg: Config, total: int | None) -> list[str]:
    """Warm-up and gradient clipping on by default, warm-up no longer than a tenth of the run. Returns log lines."""
    notes = []
    wrapper = cfg.optim_wrapper
    if not wrapper.get("clip_grad"):
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
    cores = max(len(os.sched_getaffinity(0)) // local_ranks, 1)
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


def pretrained_sources(cfg: Config) -> list[ConfigDict]:
    """The dicts of the model that ask for pretrained weights."""
    return [
        part
        for part in walk(cfg.model)
        if isinstance(part.get("init_cfg"), dict) and part["init_cfg"].get("type") == "Pretrained"
    ]


def stem(name: str) -> str:
    """Name of a run: that of its config file."""
    return re.sub(r"\.py$", "", Path(name.removeprefix("mmdet::")).name)
