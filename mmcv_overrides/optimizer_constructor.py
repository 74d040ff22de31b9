"""The constructor of optimizer and wrapper: merged parameter groups, fused updates, shared parameters refused."""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from typing import Any, cast

import torch
from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mmcv_overrides import seams
from mmcv_overrides.errors import UserError
from mmcv_overrides.optimizer import StepOptimWrapper
from mmcv_overrides.parameter_groups import UpstreamGroups, merge_groups
from mmcv_overrides.seams import Override

FUSED = {torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW}


class _DropParamwiseLines(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (message.startswith("paramwise_options --") or " is skipped since its requires_grad=" in message)


def _refuse_shared(groups: list[dict[str, Any]], model: nn.Module) -> None:
    counts = Counter(p for group in groups for p in group["params"])
    shared = {p for p, count in counts.items() if count > 1}
    if shared:
        names = [name for name, p in model.named_parameters(remove_duplicate=False) if p in shared]
        raise SharedParameters(
            f"some parameters appear in more than one parameter group: modules share them ({', '.join(names[:4])}"
            f"{' and more' if len(names) > 4 else ''}). Add paramwise_cfg=dict(bypass_duplicate=True) to optim_wrapper"
        )


class SharedParameters(UserError, ValueError):
    """A parameter that two modules share is in the optimizer twice; torch raises a ValueError for it."""


class MergedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor with merged groups and fused updates where they exist.

    The parameters are those that mmengine takes: without ``paramwise_cfg`` all of the model, including frozen ones,
    which a hook may unfreeze; with it only those that require gradients now.

    Raises:
        SharedParameters: two modules share a parameter, and ``paramwise_cfg`` lacks ``bypass_duplicate=True``.
    """

    _upstream: list[list[torch.Tensor]] | None = None
    _fused_by_default = False

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: Any = None) -> None:
        """Add the parameters of ``module`` to ``params``; the outermost call merges the groups."""
        super().add_params(params, module, prefix=prefix, is_dcn_module=is_dcn_module)
        if not prefix:  # the outermost call
            _refuse_shared(params, module)
            self._upstream = [list(group["params"]) for group in params]
            params[:] = merge_groups(params, {k: v for k, v in self.optimizer_cfg.items() if k != "type"})

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build optimizer and wrapper, and log the parameter groups.

        Raises:
            UserError: the whole model is frozen.
        """
        bare = cast(nn.Module, model.module) if hasattr(model, "module") else model
        if not any(p.requires_grad for p in bare.parameters()):
            raise UserError("every parameter of the model is frozen: there is nothing to train")
        self._prefer_fused()
        quiet = _DropParamwiseLines()
        handlers = MMLogger.get_current_instance().handlers
        for handler in handlers:
            handler.addFilter(quiet)
        try:
            wrapper = super().__call__(model)
        finally:
            for handler in handlers:
                handler.removeFilter(quiet)
        if isinstance(wrapper, StepOptimWrapper):
            self._note_upstream(wrapper, bare)
        groups = wrapper.optimizer.param_groups
        sizes = "; ".join(
            f"{len(g['params'])} tensors at lr {g['lr']:g}, wd {g.get('weight_decay', 0):g}" for g in groups
        )
        print_log(f"optimizer {type(wrapper.optimizer).__name__}, {len(groups)} groups: {sizes}", logger="current")
        return wrapper

    def _note_upstream(self, wrapper: StepOptimWrapper, model: nn.Module) -> None:
        """Tell the wrapper how mmengine would group the parameters, for checkpoints."""
        groups = self._upstream or [list(model.parameters())]
        wrapper.upstream = UpstreamGroups(groups, {param: name for name, param in model.named_parameters()})
        wrapper.fused_by_default = self._fused_by_default
        if len(groups) > 1 and wrapper.base_param_settings is None:  # upstream: with more than one group
            wrapper.base_param_settings = {"params": torch.tensor([0.0]), **wrapper.optimizer.defaults}

    def _prefer_fused(self) -> None:
        kind = self.optimizer_cfg["type"]
        cls = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
        wrapper = self.optim_wrapper_cfg.get("type", "OptimWrapper")
        wrapper = OPTIM_WRAPPERS.get(wrapper) if isinstance(wrapper, str) else wrapper
        # torch's fused SGD fails on weights that join later, unless the wrapper prepares their momentum
        prepares = isinstance(wrapper, type) and issubclass(seams.replaced.get(wrapper, wrapper), StepOptimWrapper)
        self._fused_by_default = (
            cls in FUSED and prepares and not self.optimizer_cfg.get("foreach") and "fused" not in self.optimizer_cfg
        )
        if self._fused_by_default:
            self.optimizer_cfg["fused"] = True


def NpuFusedSGD(params: Any, **kwargs: Any) -> torch.optim.Optimizer:
    """Huawei's fused SGD from torch_npu or apex if one can be imported; otherwise torch's, with a log line."""
    for path in ("torch_npu.optim", "apex.optimizers"):
        try:
            module = __import__(path, fromlist=["NpuFusedSGD"])
            return module.NpuFusedSGD(params, **kwargs)
        except (ImportError, AttributeError):
            continue
    print_log("optimizer NpuFusedSGD: found in neither torch_npu nor apex; using torch.optim.SGD", logger="current")
    legal = inspect.signature(torch.optim.SGD).parameters
    return torch.optim.SGD(params, **{k: v for k, v in kwargs.items() if k in legal}, fused=True)


# mmengine registers the real one itself if torch_npu finds a device.
if OPTIMIZERS.get("NpuFusedSGD") is None:
    OPTIMIZERS.register_module(name="NpuFusedSGD", module=NpuFusedSGD)

OVERRIDES = [
    Override(
        "OPTIM_WRAPPER_CONSTRUCTORS:DefaultOptimWrapperConstructor",
        MergedOptimWrapperConstructor,
        "few parameter groups and fused updates; upstream makes one group per parameter",
    ),
]
