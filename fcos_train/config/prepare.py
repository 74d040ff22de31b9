"""From a config and a user's options to the config that the runner is built from.

What decides a setting, lowest rank first; a higher rank wins:

1. built-in defaults (this package),
2. the config file and its bases,
3. ``--cfg-options``,
4. flags that were given. A flag that was not given is None in the options and decides nothing.

Ranks 2 and 3 are merged into one config before this module runs (:func:`fcos_train.config.load.configured`). A value
that a user wrote is never changed silently: it is either a :class:`UserError`, or a line in the log with the old value,
the new one and the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmengine.dist as dist
from mmengine.config import Config, ConfigDict

from fcos_train.config.apply_recipe import set_checkpoints, set_evaluations, set_loggers, set_sampling, set_steps
from fcos_train.config.augment import set_augmentation
from fcos_train.config.dataset import allow_bad_samples, checked_data, data_is_there, point_at_data, use_clear_loading
from fcos_train.config.evaluators import reported_names, translate_monitors
from fcos_train.config.freeze import require_weights, set_freeze
from fcos_train.config.image_size import set_image_size
from fcos_train.config.input_sizes import check_input_sizes
from fcos_train.config.loaders import set_loaders
from fcos_train.config.needs import make_buildable, rename_jpeg_compression, require_annotations
from fcos_train.config.options import TrainOptions
from fcos_train.config.packages import require_packages
from fcos_train.config.pretrained import settle_pretrained
from fcos_train.config.schedule import safe_schedule, scale_learning_rate, set_length, total_iterations
from fcos_train.config.start_weights import start_weights
from fcos_train.config.step_mode import set_step
from mmcv_overrides import device, precision
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

OPT_LEVEL, LOSS_SCALE, KEPT_CHECKPOINTS = "O1", 32.0, 3
CURVES = ("TensorboardVisBackend", "LocalVisBackend")
# The wrappers whose settings ours understands: they differ in the level of precision that they stand for.
WRAPPERS = {"OptimWrapper": None, "AmpOptimWrapper": "O1", "ApexOptimWrapper": "O1"}


def prepare(
    cfg: Config,
    options: TrainOptions,
    accelerator: device.Accelerator,
    folder: Path,
    resume: str | None,
    shown: bool = False,
) -> list[str]:
    """Complete the config of a training. Returns the lines that tell what was decided.

    Args:
        folder: where the training writes. resume: the checkpoint to continue from.
        shown: the config is printed, not trained: its data set may be absent, and no pretrained weights are read.

    Raises:
        UserError: anything that would make the run fail later.
    """
    named = options.load_from or cfg.get("load_from")
    start_from = resume or (named if shown else start_weights(cfg, options.load_from, options.pretrained, _say))
    notes = make_buildable(cfg)
    skipped = shown and options.data_path is None and not data_is_there(cfg)
    spec = None if skipped else checked_data(cfg, options, folder)
    images = 0
    if spec is not None:
        notes += point_at_data(cfg, spec)
        images = spec.report.counts[spec.train.name]["images"]
        notes += spec.report.lines() if options.check else []
    if not options.validate:
        drop_validation(cfg)
    notes += rename_jpeg_compression(cfg)
    set_length(cfg, options)
    notes += set_sampling(cfg, options)
    notes += set_image_size(cfg, options.img_size, options.augment is not None)
    notes += set_augmentation(cfg, options.augment)
    require_packages(cfg.model, cfg.train_dataloader)  # of the rest, build_runner asks
    if spec is not None:
        require_annotations(cfg, spec, given=options.data_path is not None)
    use_clear_loading(cfg)
    notes += allow_bad_samples(cfg, options.max_bad_samples)
    # The level of precision first: the step depends on it.
    level = set_precision(cfg, options, accelerator)
    notes += set_steps(cfg, options)
    notes += set_freeze(cfg, options.freeze)
    notes += set_step(cfg, options, accelerator)
    check_input_sizes(cfg)
    notes += set_loaders(cfg, options, accelerator)
    world = dist.get_world_size()
    notes += [level, scale_learning_rate(cfg, options, world)]
    total = total_iterations(cfg, images, world)
    notes += safe_schedule(cfg, total)
    notes += set_hooks(cfg)
    notes += set_checkpoints(cfg, options)
    notes += set_evaluations(cfg, options, total)
    notes += translate_monitors(cfg)
    set_loggers(cfg, options.logger)
    set_visualizer(cfg, folder)
    set_randomness(cfg, options)
    cfg["work_dir"] = str(folder)
    cfg["launcher"] = options.launcher
    cfg["resume"] = resume is not None
    cfg["load_from"] = start_from
    if not shown or start_from or options.pretrained == "none":
        notes += settle_pretrained(cfg, "none" if start_from else options.pretrained)
    require_weights(cfg, options.freeze)
    return notes


def _say(line: str) -> None:
    """A line that cannot wait for the others, because a download follows."""
    if dist.is_main_process():
        print(printable(line), flush=True)


def set_precision(cfg: Config, options: TrainOptions, accelerator: device.Accelerator) -> str:
    """Put level, half type and loss scale into the optimizer wrapper. Returns the line for the log.

    ``AmpOptimWrapper`` means O1 with the ``dtype`` and the ``loss_scale`` that it names, as in mmengine.

    Raises:
        UserError: a wrapper of another type, or settings that this trainer has no counterpart for.
    """
    wrapper = cfg.optim_wrapper
    kind = str(wrapper.get("type", "OptimWrapper")).removeprefix("mmengine.")
    if kind not in WRAPPERS:
        raise UserError(
            f"optim_wrapper.type {kind}: this trainer steps through its own wrapper; use one of {', '.join(WRAPPERS)}"
        )
    if wrapper.pop("use_fsdp", False):
        raise UserError("optim_wrapper.use_fsdp is not supported; remove it")
    wanted = options.opt_level or wrapper.get("opt_level") or WRAPPERS[kind]
    configured = wrapper.pop("dtype", None) or wrapper.get("amp_dtype")
    default, reason = default_level(accelerator, options.amp_dtype or configured)
    level = wanted or default
    # Without a 16-bit type of its own level O0 has none, whatever the config says of another level.
    asked = options.amp_dtype or (None if level in ("O0", "bf16") else configured)
    half = precision.half_dtype(level, accelerator, asked)
    scale = _first(options.loss_scale, wrapper.get("loss_scale"), "dynamic" if WRAPPERS[kind] else LOSS_SCALE)
    wrapper.update(type="OptimWrapper", opt_level=level, loss_scale=scale)
    wrapper.pop("amp_dtype", None)
    if half is not None:
        wrapper["amp_dtype"] = str(half).removeprefix("torch.")
    return f"{precision.describe(level, accelerator, half)}{'' if wanted else reason}; loss scale {scale}"


def default_level(accelerator: device.Accelerator, half_type: str | None) -> tuple[str, str]:
    """The level of precision where neither the user nor the config names one.

    Args:
        half_type: the 16-bit type that was asked for, if any; it is obeyed.

    Returns:
        the level, and the reason for the log where it is not O1.
    """
    if half_type is None and precision.emulated(accelerator, accelerator.half_dtype):
        return (
            "O0",
            " (the default here: this processor only emulates bfloat16, which would make O1 several times slower)",
        )
    return OPT_LEVEL, ""


def _first(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def set_hooks(cfg: Config) -> list[str]:
    """Defaults of the checkpoint hook, and the guard against non-finite losses. Returns lines for the log."""
    notes = []
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    if hooks.get("checkpoint") is None:
        hooks["checkpoint"] = ConfigDict(type="CheckpointHook", interval=1)
    checkpoint = hooks["checkpoint"]
    if cfg.get("val_evaluator") is not None:
        best = next((name for name in reported_names(cfg)[0] if name.endswith("bbox_mAP")), "auto")
        checkpoint.setdefault("save_best", best)
        if str(checkpoint["save_best"]).endswith("bbox_mAP"):
            checkpoint.setdefault("rule", "greater")
    else:
        checkpoint.pop("rule", None)
        if checkpoint.pop("save_best", None):
            notes.append("no best checkpoint is kept: this run has no validation")
    checkpoint.setdefault("max_keep_ckpts", KEPT_CHECKPOINTS)
    custom = [ConfigDict(h) for h in cfg.get("custom_hooks") or []]
    if "NonFiniteGuardHook" not in {h.get("type") for h in custom}:
        custom.append(ConfigDict(type="NonFiniteGuardHook"))
    cfg["custom_hooks"] = custom
    return notes


def set_visualizer(cfg: Config, folder: Path, curves: bool = True) -> None:
    """Keep the visualizer of the config and its backends (W&B, MLflow, ...).

    Args:
        folder: of the run; files go to ``tb/`` in it unless the config names a ``save_dir``.
        curves: TensorBoard is added. An evaluation has no curves: there the backends that write them into files
            (TensorBoard's and mmengine's local one, which writes a config too) are left out.
    """
    visualizer = ConfigDict(cfg.get("visualizer") or {})
    visualizer.setdefault("type", "DetLocalVisualizer")
    # mmengine keeps visualizers by name: under a configured one a second run of a process would get the first one's.
    visualizer.pop("name", None)
    backends = [ConfigDict(backend) for backend in visualizer.get("vis_backends") or []]
    kinds = [str(backend.get("type", "")).removeprefix("mmengine.") for backend in backends]
    if not curves:
        backends = [backend for backend, kind in zip(backends, kinds, strict=True) if kind not in CURVES]
    elif "TensorboardVisBackend" not in kinds:
        backends.append(ConfigDict(type="TensorboardVisBackend"))
    visualizer["vis_backends"] = backends
    before = str(Path(cfg.work_dir) / "tb") if cfg.get("work_dir") else None  # in a config that a training has written
    if not curves or visualizer.get("save_dir") in (None, before):
        visualizer["save_dir"] = str(folder / "tb")
    cfg["visualizer"] = visualizer


def set_randomness(cfg: Config, options: TrainOptions) -> None:
    """Seed and determinism: the flags where given, else those of the config."""
    randomness = ConfigDict(cfg.get("randomness") or {})
    for key in ("seed", "deterministic"):
        if getattr(options, key) is not None:
            randomness[key] = getattr(options, key)
    randomness.setdefault("seed", None)
    randomness.setdefault("deterministic", False)
    cfg["randomness"] = randomness


def drop_validation(cfg: Config) -> None:
    """Train without validation: no loader, no metric, no interval."""
    for name in ("val_dataloader", "val_evaluator", "val_cfg"):
        cfg[name] = None
    cfg.train_cfg.pop("val_interval", None)
