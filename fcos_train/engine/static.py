"""The fixed-shape step: which parts of a config it replaces, and what it does to the model before training.

``--step-mode``: ``eager`` runs the fixed-shape step as it stands, ``compile`` its forward pass and losses through
torch.compile, ``graph`` all of it as one CUDA graph; ``mmdet`` keeps mmdet's heads, ``auto`` is ``eager`` where the
model has the fixed-shape form and ``mmdet`` where not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from fcos_train.engine import compiled, graphed
from fcos_train.engine.fixed_batch import fixed_shapes, reset_batch, set_batch
from fcos_train.engine.options import TrainOptions
from fcos_train.models import STOCK, static_head_of, use_level_norms
from fcos_train.models.cpu_block import quick_blocks
from fcos_train.models.cpu_conv import quick_conv
from fcos_train.models.frozen_bn import fold_frozen_bn
from fcos_train.models.group_norm import quick_group_norm, triton_fault
from mmcv_overrides.device import Accelerator
from mmcv_overrides.errors import UserError
from mmcv_overrides.optimizer import StepOptimWrapper

HOOK = "FixedStepHook"
HINTS = {
    "eager": "--step-mode mmdet turns it off",
    "compile": "the first step of every shape compiles, which can take minutes",
    "graph": f"the first {graphed.WARM_UP} steps of every shape run uncaptured",
}


def set_step(cfg: Config, options: TrainOptions, accelerator: Accelerator) -> list[str]:
    """Put the fixed-shape parts into a training config, or take them out again. Returns lines for the log.

    Raises:
        UserError: a mode was asked for that this model, its batches, the device or the number of ranks do not allow.
    """
    _remove_hook(cfg)
    if options.step_mode == "mmdet":
        return [_stock(cfg), *use_level_norms(cfg.model)]
    head, what = static_head_of(cfg.model)
    if head is None:
        if options.step_mode != "auto":
            raise UserError(f"--step-mode {options.step_mode}: {what}; use --step-mode mmdet")
        return [f"step mode mmdet: {what}", *use_level_norms(cfg.model)]
    mode = "eager" if options.step_mode == "auto" else options.step_mode
    if mode == "compile":
        compiled.check(accelerator)
    elif mode == "graph":
        graphed.check(accelerator, options.launcher, cfg.optim_wrapper.get("accumulative_counts", 1))
    cfg.model.bbox_head["type"] = head
    dense = _channels_last_pays(cfg, options, accelerator)
    # on an NPU the host launches slower than the device computes; elsewhere the larger canvas costs more than it saves
    hook = ConfigDict(type=HOOK, channels_last=dense, mode=mode, merge_levels=accelerator.name == "npu")
    cfg["custom_hooks"] = [*(cfg.get("custom_hooks") or []), hook]
    batches = set_batch(cfg, dense)
    if mode != "eager" and not fixed_shapes(cfg):
        raise UserError(
            f"--step-mode {mode} needs batches of a few fixed shapes, but: {batches}. Give the shapes, as in "
            "train_dataloader.collate_fn=dict(type='fixed_shape_collate', shapes=[(800, 1344)]), or use --step-mode eager"
        )
    return [f"fixed-shape step: {what}, mode {mode}{', channels_last' if dense else ''}; {HINTS[mode]}", batches]


def _remove_hook(cfg: Config) -> None:
    cfg["custom_hooks"] = [h for h in cfg.get("custom_hooks") or [] if h.get("type") != HOOK]


def _stock(cfg: Config) -> str:
    head = cfg.model.get("bbox_head")
    if isinstance(head, dict) and head.get("type") in STOCK:
        head["type"] = STOCK[head["type"]]
    reset_batch(cfg)
    return "step mode mmdet: asked for"


def _channels_last_pays(cfg: Config, options: TrainOptions, accelerator: Accelerator) -> bool:
    """An NPU refuses channels_last; a GPU gains in half precision, but torch's GroupNorm would convert back and forth."""
    if accelerator.name == "cuda":
        norm = (cfg.model.bbox_head.get("norm_cfg") or {}).get("type", "GN" if cfg.model.type == "FCOS" else None)
        return options.opt_level != "O0" and (norm != "GN" or triton_fault() is None)
    return accelerator.name == "cpu"


@HOOKS.register_module()
class FixedStepHook(Hook):
    """Makes a built model ready for the fixed-shape step, after its weights are there.

    Args:
        channels_last: keep weights, gradients and momentum in channels_last.
        mode: ``eager``, ``compile`` or ``graph``.
        merge_levels: run the towers of the head over all levels at once, where that can be done.
    """

    priority = "VERY_LOW"

    def __init__(self, channels_last: bool = False, mode: str = "eager", merge_levels: bool = False):
        self.channels_last, self.mode, self.merge_levels = channels_last, mode, merge_levels

    def before_run(self, runner) -> None:
        """Initial weights are drawn in the usual memory order, so that a seed means the same weights in every mode."""
        for param in runner.model.parameters():
            param.data = param.data.contiguous()

    def before_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        make_ready(model, runner.optim_wrapper, runner.logger.info, self.channels_last, self.mode, self.merge_levels)


def make_ready(
    model: nn.Module,
    wrapper: StepOptimWrapper,
    log: Callable[[str], None],
    channels_last: bool = False,
    mode: str = "eager",
    merge_levels: bool = False,
) -> None:
    """Turn a built detector with a fixed-shape head into one whose ``train_step`` runs as ``mode`` says.

    Args:
        model: not its DDP wrapper, on its device, with its weights. wrapper: its optimizer wrapper.
        log: gets lines for people. channels_last, mode, merge_levels: as for :class:`FixedStepHook`.

    Raises:
        UserError: the optimizer can't be part of a graph.
    """
    if wrapper.opt_level != "O2":  # there the weights are 16 bit and the norms are not
        folded = fold_frozen_bn(model)
        if folded:
            log(f"{len(folded)} frozen norms folded into their convolutions")
    if merge_levels:
        obstacle = model.bbox_head.canvas_obstacle()
        model.bbox_head.merge_levels = obstacle is None
        log("the head's levels are merged" if obstacle is None else f"levels one by one: {obstacle}")
    quick_conv(model)
    quick_blocks(model)
    quick_group_norm(model)
    if channels_last:
        lay_out(model, wrapper)
    if mode == "compile":
        compiled.compile_losses(model, log)
    elif mode == "graph":
        graphed.graph_step(model, wrapper, log)


def lay_out(model: nn.Module, wrapper) -> None:
    """Weights in channels_last, and what the optimizer keeps for each of them in the same order.

    A fused update walks a weight, its gradient and its momentum by address: one order for all three.
    """
    model.to(memory_format=torch.channels_last)
    owners = [p for group in wrapper.optimizer.param_groups for p in group["params"]]
    for param in owners:
        if param.dim() == 4:
            param.data = param.data.contiguous(memory_format=torch.channels_last)
        for name, value in wrapper.optimizer.state.get(param, {}).items():
            if isinstance(value, torch.Tensor) and value.shape == param.shape:
                wrapper.optimizer.state[param][name] = torch.empty_like(param).copy_(value)
