"""Puts the flags of :class:`.recipe.Recipe` into a config. Each function returns lines for the log."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.config import Config, ConfigDict

from fcos_train.config.augment import kind_of
from fcos_train.config.batch_shapes import COLLATE
from fcos_train.config.endurance import Endurance, seconds
from fcos_train.config.evaluators import reported_names
from fcos_train.config.load import leaf_datasets, walk
from fcos_train.config.packages import require_packages
from fcos_train.config.recipe import Recipe
from mmcv_overrides.errors import UserError

BACKENDS = {
    "tensorboard": "TensorboardVisBackend",
    "wandb": "WandbVisBackend",
    "mlflow": "MLflowVisBackend",
    "clearml": "ClearMLVisBackend",
}
VAL_LOSS = "ValLossHook"
EXTRA_CHECKPOINTS = "ExtraCheckpointHook"
BALANCED = "ClassBalancedDataset"
# mmengine counts an equal mAP as a better one, so that a model that has learnt nothing would never stop.
MIN_DELTA = 1e-6
# The average forgets over 1/momentum steps: 5,000 as in RTMDet, but no more than a twentieth of the run; and it
# follows the weights more closely at the start, over gamma steps.
EMA_MOMENTUM, EMA_SHARE = 0.0002, 20
EMA_GAMMA, EMA_START = 2000, 10


def set_sampling(cfg: Config, recipe: Recipe) -> list[str]:
    """``--keep-empty`` and ``--balance``: which images are trained on, and how often.

    Raises:
        UserError: a data set without a filter, or the combination with ``drop_last`` samplers of its own.
    """
    loader, notes = cfg.train_dataloader, []
    if recipe.keep_empty:
        for leaf in leaf_datasets(loader.dataset):
            leaf["filter_cfg"] = ConfigDict({**(leaf.get("filter_cfg") or {}), "filter_empty_gt": False})
        notes.append("images without objects are trained on")
    if recipe.balance is not None:
        found = [part for part in walk(loader.dataset) if kind_of(part) == BALANCED]
        for part in found:
            notes.append(f"{BALANCED}: oversample_thr {part.oversample_thr} -> {recipe.balance}")
            part["oversample_thr"] = recipe.balance
        if not found:
            if "datasets" in loader.dataset or kind_of(loader.dataset) in ("MultiImageMixDataset", "GroupDataset"):
                raise UserError(f"--balance: the config combines data sets itself; put {BALANCED} into it")
            inner = loader.dataset
            loader["dataset"] = ConfigDict(type=BALANCED, oversample_thr=recipe.balance, dataset=inner)
            notes.append(f"images of classes that fewer than {recipe.balance:.0%} of the images have are repeated")
    return notes


def set_checkpoints(cfg: Config, options: Endurance) -> list[str]:
    """``--checkpoint-every``: checkpoints between those of the config."""
    every = options.checkpoint_every
    if every is None:
        return []
    if str(every).isdecimal():
        extra, said = ConfigDict(iterations=int(every)), f"{every} iterations"
    else:
        extra, said = ConfigDict(seconds=seconds(every)), f"{seconds(every):g} s"
    others = [hook for hook in cfg.get("custom_hooks") or [] if hook.get("type") != EXTRA_CHECKPOINTS]
    cfg["custom_hooks"] = [*others, ConfigDict(type=EXTRA_CHECKPOINTS, **extra)]
    return [f"checkpoints: also every {said}, the two newest of these are kept"]


def set_steps(cfg: Config, recipe: Recipe) -> list[str]:
    """``--accumulate`` and ``--lr``: what an optimizer step is made of.

    Raises:
        UserError: a learning rate that something else in the config sets.
    """
    notes, wrapper = [], cfg.optim_wrapper
    if recipe.accumulate is not None:
        before = wrapper.get("accumulative_counts", 1)
        wrapper["accumulative_counts"] = recipe.accumulate
        notes.append(f"gradients of {recipe.accumulate} batches make a step (the config: {before})")
    if recipe.lr is not None:
        if any(str(part.get("type")).startswith("OneCycle") for part in walk(cfg.get("param_scheduler") or [])):
            raise UserError("--lr: OneCycleLR sets the learning rate in this config; change its eta_max")
        wrapper.optimizer["lr"] = recipe.lr
    return notes


def set_evaluations(cfg: Config, recipe: Recipe, total: int | None) -> list[str]:
    """``--eval-every``, ``--patience``, ``--ema`` and ``--val-loss``.

    Args:
        total: steps of the whole schedule, if known.

    Raises:
        UserError: the config has no evaluation.
    """
    notes = []
    asked = {"eval-every": recipe.eval_every, "patience": recipe.patience, "val-loss": recipe.val_loss}
    flags = [f"--{name}" for name, value in asked.items() if value]
    if flags and (cfg.get("val_evaluator") is None or cfg.get("val_dataloader") is None):
        raise UserError(f"{', '.join(flags)}: this config has no evaluation (val_dataloader, val_evaluator)")
    if recipe.eval_every is not None:
        notes.append(f"val_interval {cfg.train_cfg.get('val_interval', 1)} -> {recipe.eval_every}")
        cfg.train_cfg["val_interval"] = recipe.eval_every
        if cfg.train_cfg.pop("dynamic_intervals", None):
            notes.append("dynamic_intervals of the config are left out: --eval-every is the one interval")
    if recipe.patience is not None:
        notes.append(_stop_early(cfg, recipe.patience))
    if recipe.ema:
        notes.append(_average(cfg, total))
    if recipe.val_loss or _hook(cfg, VAL_LOSS) is not None:
        notes += _log_losses(cfg)
    return notes


def _hook(cfg: Config, kind: str) -> ConfigDict | None:
    return next((hook for hook in cfg.get("custom_hooks") or [] if kind_of(hook).rpartition(".")[2] == kind), None)


def _add_hook(cfg: Config, **settings: Any) -> None:
    kept = [hook for hook in cfg.get("custom_hooks") or [] if hook.get("type") != settings["type"]]
    cfg["custom_hooks"] = [*kept, ConfigDict(settings)]


def _stop_early(cfg: Config, patience: int) -> str:
    hook = _hook(cfg, "EarlyStoppingHook")
    if hook is not None:
        before, hook["patience"] = hook.get("patience", 5), patience
        return f"EarlyStoppingHook.patience {before} -> {patience}"
    names = reported_names(cfg)[0]
    monitor = next((name for name in names if name.endswith("bbox_mAP")), names[0] if names else None)
    if monitor is None:
        raise UserError("--patience: the name of the metric is not known; put an EarlyStoppingHook into the config")
    settings = dict(monitor=monitor, rule="greater", patience=patience, min_delta=MIN_DELTA)
    _add_hook(cfg, type="EarlyStoppingHook", **settings)
    return f"the training stops after {patience} evaluations without a better {monitor}"


def _average(cfg: Config, total: int | None) -> str:
    if _hook(cfg, "EMAHook") is not None:
        return "--ema: the config has an EMAHook; it is kept as it is"
    momentum = max(EMA_MOMENTUM, min(EMA_SHARE / total, 0.5)) if total else EMA_MOMENTUM
    gamma = min(EMA_GAMMA, max(total // EMA_START, 1)) if total else EMA_GAMMA
    settings = dict(ema_type="ExpMomentumEMA", momentum=momentum, gamma=gamma, update_buffers=True)
    _add_hook(cfg, type="EMAHook", **settings)
    return f"moving average of the weights over {round(1 / momentum)} steps; it is evaluated and saved"


def _log_losses(cfg: Config) -> list[str]:
    """The hook of ``--val-loss``, also one that the config has: its loader is that of the validation of this run."""
    if cfg.get("val_dataloader") is None:
        cfg["custom_hooks"] = [hook for hook in cfg.custom_hooks if kind_of(hook) != VAL_LOSS]
        return ["no validation losses: this run has no validation"]
    _add_hook(cfg, type=VAL_LOSS, dataloader=_loss_loader(cfg))
    return ["the losses on the validation images are logged at every evaluation"]


def _loss_loader(cfg: Config) -> ConfigDict:
    """A loader of the validation images with their objects, in batches as in training but without random changes.

    Raises:
        UserError: a pipeline that this cannot be made of.
    """
    training = cfg.train_dataloader
    loader = ConfigDict(copy.deepcopy(cfg.val_dataloader))
    leaves = leaf_datasets(loader.dataset)
    annotations = [part for part in walk(training.dataset) if kind_of(part) == "LoadAnnotations"]
    if kind_of(cfg.model.get("data_preprocessor") or {}).startswith("MultiBranch") or not annotations:
        raise UserError("--val-loss: this config has no single training pipeline with box annotations")
    for leaf in leaves:
        # Test pipelines load the objects after resizing, in px of the file; losses need them resized with the image.
        steps = [step for step in leaf.pipeline if kind_of(step) != "LoadAnnotations"]
        leaf["pipeline"] = [*steps[:1], copy.deepcopy(annotations[0]), *steps[1:]]
    loader["batch_size"] = training.batch_size
    collate = training.get("collate_fn") or {}
    if collate.get("type") == COLLATE:
        loader["collate_fn"] = ConfigDict({**collate, "shapes": []})
    elif collate:
        loader["collate_fn"] = copy.deepcopy(collate)
    return loader


def set_loggers(cfg: Config, names: tuple[str, ...] | None) -> None:
    """``--logger``: backends beside those of the config.

    Raises:
        UserError: a package that is not installed, with the command that installs it.
    """
    if not names:
        return
    visualizer = ConfigDict(cfg.get("visualizer") or {})
    backends = [ConfigDict(backend) for backend in visualizer.get("vis_backends") or []]
    kinds = {kind_of(backend).rpartition(".")[2] for backend in backends}
    added = [ConfigDict(type=BACKENDS[name]) for name in dict.fromkeys(names) if BACKENDS[name] not in kinds]
    require_packages(added)
    visualizer["vis_backends"] = [*backends, *added]
    cfg["visualizer"] = visualizer
