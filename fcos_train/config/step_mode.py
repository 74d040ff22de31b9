"""The fixed-shape step: which parts of a config it replaces, and what it requires.

Values of ``--step-mode``: ``eager`` runs the fixed-shape step directly; ``compile`` runs its forward pass and losses
through torch.compile; ``graph`` captures the whole step as one CUDA graph; ``mmdet`` keeps mmdet's heads; ``auto`` is
``eager`` if the model has a fixed-shape form, otherwise ``mmdet``.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

import mmengine.dist as dist
import torch
from mmengine.config import Config, ConfigDict

from fcos_train.config.batch_shapes import fixed_shapes, reset_batch, set_batch
from fcos_train.config.options import TrainOptions
from fcos_train.models import STOCK_OF_FIXED_SHAPE, fixed_shape_head_of, use_level_norms
from fcos_train.models.fast.group_norm import triton_fault
from mmcv_overrides.device import Accelerator
from mmcv_overrides.errors import UserError

HOOK = "FixedStepHook"
WARM_UP = 3  # uncaptured steps of a shape; with three of them cuDNN, cuBLAS and the allocator have settled
SWITCHES = ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE", "TORCHDYNAMO_SUPPRESS_ERRORS")
HINTS = {
    "eager": "--step-mode mmdet turns it off",
    "compile": "the first step of every shape compiles, which can take minutes",
    "graph": f"the first {WARM_UP} steps of every shape run uncaptured",
}


def set_step(cfg: Config, options: TrainOptions, accelerator: Accelerator) -> list[str]:
    """Put the fixed-shape parts into a training config, or take them out again. Returns lines for the log.

    Raises:
        UserError: a mode was asked for that this model, its batches, the device or the number of ranks do not allow.
    """
    _remove_hook(cfg)
    if options.step_mode == "mmdet":
        return [_stock(cfg), *use_level_norms(cfg.model)]
    head, what = fixed_shape_head_of(cfg.model)
    if head is None:
        if options.step_mode != "auto":
            raise UserError(f"--step-mode {options.step_mode}: {what}; use --step-mode mmdet")
        return [f"step mode mmdet: {what}", *use_level_norms(cfg.model)]
    mode = "eager" if options.step_mode == "auto" else options.step_mode
    if mode == "compile":
        check_compile(accelerator)
    elif mode == "graph":
        check_graph(accelerator, options.launcher, cfg.optim_wrapper.get("accumulative_counts", 1))
    cfg.model.bbox_head["type"] = head
    dense = _channels_last_pays(cfg, accelerator)
    # on an NPU the host launches slower than the device computes; elsewhere the larger canvas costs more than it saves
    hook = ConfigDict(type=HOOK, channels_last=dense, mode=mode, merge_levels=accelerator.name == "npu")
    cfg["custom_hooks"] = [*(cfg.get("custom_hooks") or []), hook]
    batches = set_batch(cfg, dense)
    if mode != "eager" and not fixed_shapes(cfg):
        raise UserError(
            f"--step-mode {mode} needs batches of a few fixed shapes, but: {batches}. Give the shapes, as in "
            "train_dataloader.collate_fn=dict(type='fixed_shape_collate', shapes=[(800, 1344)]), "
            "or use --step-mode eager"
        )
    return [f"fixed-shape step: {what}, mode {mode}{', channels_last' if dense else ''}; {HINTS[mode]}", batches]


def _remove_hook(cfg: Config) -> None:
    cfg["custom_hooks"] = [h for h in cfg.get("custom_hooks") or [] if h.get("type") != HOOK]


def _stock(cfg: Config) -> str:
    head = cfg.model.get("bbox_head")
    if isinstance(head, dict) and head.get("type") in STOCK_OF_FIXED_SHAPE:
        head["type"] = STOCK_OF_FIXED_SHAPE[head["type"]]
    reset_batch(cfg)
    return "step mode mmdet: asked for"


def _channels_last_pays(cfg: Config, accelerator: Accelerator) -> bool:
    """An NPU refuses channels_last. A GPU gains in half precision, unless torch's GroupNorm converts to and fro."""
    if accelerator.name == "cuda":
        norm = (cfg.model.bbox_head.get("norm_cfg") or {}).get("type", "GN" if cfg.model.type == "FCOS" else None)
        return cfg.optim_wrapper.get("opt_level") != "O0" and (norm != "GN" or triton_fault() is None)
    return accelerator.name == "cpu"


# compile


def check_compile(accelerator: Accelerator) -> None:
    """Refuse what could not compile, before anything is read.

    Raises:
        UserError: the device is not covered, a tool is absent, or the environment switches torch.compile off.
    """
    fault = _fault(accelerator.name)
    if fault:
        raise UserError(f"--step-mode compile: {fault}; --step-mode eager runs the same step without a compiler")


def _fault(kind: str) -> str | None:
    switch = next((name for name in SWITCHES if os.environ.get(name, "0") != "0"), None)
    if switch:
        return f"the environment variable {switch} would let the step run uncompiled without a word: unset it"
    if kind == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "torch.compile needs Triton on a GPU, which is not installed (pip install triton)"
        if torch.cuda.get_device_capability() < (7, 0):
            return f"Triton needs compute capability 7.0, {torch.cuda.get_device_name()} has less"
        return _compiler_fault("CC", ("gcc", "clang"))
    if kind != "cpu":
        return f"torch.compile is not covered on {kind}"
    return _compiler_fault("CXX", ("clang++" if sys.platform == "darwin" else "g++",))


def _compiler_fault(variable: str, usual: tuple[str, ...]) -> str | None:
    given = shlex.split(os.environ.get(variable, ""))[:1]
    names = given or usual
    if not any(shutil.which(name) for name in names):
        return f"torch.compile needs a compiler, and there is no {' or '.join(names)} ({variable} names another one)"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return None if header.is_file() else f"torch.compile needs Python's headers (package python3-dev): no {header}"


# graph


def check_graph(accelerator: Accelerator, launcher: str | None, accumulative_counts: int) -> None:
    """Refuse what cannot be captured, before anything is read.

    Raises:
        UserError: another device than a GPU, several ranks, or accumulated gradients.
    """
    faults = [
        (accelerator.name != "cuda", f"a CUDA graph needs --device cuda, this is {accelerator.name}"),
        (
            launcher == "pytorch" or dist.is_distributed(),
            "not together with DDP (start one process, without --launcher)",
        ),
        (accumulative_counts > 1, f"not with accumulated gradients (accumulative_counts={accumulative_counts})"),
    ]
    found = [text for fault, text in faults if fault]
    if found:
        raise UserError(f"--step-mode graph: {'; '.join(found)}; --step-mode eager runs the same step without a graph")
