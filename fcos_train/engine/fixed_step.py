"""Prepares a built model for the fixed-shape step: fast paths, memory layout, torch.compile or a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from fcos_train.engine import compiled, graphed
from fcos_train.models.fast.apply import make_fast
from mmcv_overrides.optimizer import StepOptimWrapper


@HOOKS.register_module()
class FixedStepHook(Hook):
    """Prepares a built model for the fixed-shape step, once its weights are loaded.

    Args:
        channels_last: keep weights, gradients and momentum in channels_last.
        mode: ``eager``, ``compile`` or ``graph``.
        merge_levels: run the towers of the head over all levels at once, if they allow it.
    """

    priority = "VERY_LOW"

    def __init__(self, channels_last: bool = False, mode: str = "eager", merge_levels: bool = False) -> None:
        self.channels_last, self.mode, self.merge_levels = channels_last, mode, merge_levels

    def before_run(self, runner: Any) -> None:
        """Draw initial weights in the default memory format, so that a seed gives the same weights in every mode."""
        for param in runner.model.parameters():
            param.data = param.data.contiguous()

    def before_train(self, runner: Any) -> None:
        """See :func:`make_ready`."""
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
    """Prepare a detector with a fixed-shape head, so that its ``train_step`` runs in the given mode.

    Args:
        model: the detector without its DDP wrapper, on its device, with its weights.
        wrapper: its optimizer wrapper.
        log: receives one line per decision.
        channels_last, mode, merge_levels: as in :class:`FixedStepHook`.

    Raises:
        UserError: the optimizer cannot be part of a graph.
    """
    make_fast(model, log, fold=wrapper.opt_level != "O2", merge_levels=merge_levels)
    if channels_last:
        lay_out(model, wrapper)
    if mode == "compile":
        compiled.compile_losses(model, log)
    elif mode == "graph":
        graphed.graph_step(model, wrapper, log)


def lay_out(model: nn.Module, wrapper: StepOptimWrapper) -> None:
    """Convert weights, and the optimizer's state of each, to channels_last.

    A fused update reads a weight, its gradient and its momentum by address, so all three need the same memory format.
    """
    cast(Any, model).to(memory_format=torch.channels_last)  # torch's annotations lack this overload
    owners = [p for group in wrapper.optimizer.param_groups for p in group["params"]]
    for param in owners:
        if param.dim() == 4:
            param.data = param.data.contiguous(memory_format=torch.channels_last)
        for name, value in wrapper.optimizer.state.get(param, {}).items():
            if isinstance(value, torch.Tensor) and value.shape == param.shape:
                wrapper.optimizer.state[param][name] = torch.empty_like(param).copy_(value)
