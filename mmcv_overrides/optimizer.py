"""ONE optimizer step for every precision: scale, backward, unscale, clip, check, step, update.

The step reads nothing back to the host: loss scale, gradient norm and the decision to skip stay on the device, where
fused optimizers use the decision (their ``found_inf``).
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIMIZERS
from torch import nn

from mmcv_overrides import precision
from mmcv_overrides.device import current
from mmcv_overrides.errors import UserError
from mmcv_overrides.loss_scale import LossScale
from mmcv_overrides.masters import MasterWeights
from mmcv_overrides.optimizer_state import fit_groups
from mmcv_overrides.parallel import all_reduce_max
from mmcv_overrides.seams import Override

FUSED = {torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW}


def multiply_(grads: list[torch.Tensor], factor: torch.Tensor) -> None:
    """Multiply gradients in place by a 0-d f32 tensor on their device, without reading it back.

    On an accelerator this is GradScaler's operator, a single launch; an NPU splits ``_foreach_mul_`` by a tensor into
    one launch per gradient.
    """
    if factor.device.type == "cpu":
        torch._foreach_mul_(grads, factor)
    else:
        torch._amp_foreach_non_finite_check_and_unscale_(grads, torch.zeros_like(factor), factor)


class StepOptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper with a precision level, a loss scale and a guard against non-finite steps.

    A step whose loss (on any rank) or gradient norm is not finite changes no weight. Its outcome is in ``last_bad``,
    ``last_loss_bad`` (1.0 or 0.0) and ``last_grad_norm`` (0-d tensors on the device) and in ``last_norms`` ([P], of
    ``last_params``, the P parameters that had a gradient).

    Args:
        optimizer: a torch optimizer.
        accumulative_counts: number of batches whose gradients are accumulated for one step.
        clip_grad: ``max_norm`` and ``norm_type``, or ``clip_value``, as in mmengine's OptimWrapper.
        opt_level: O0, O1, O2 or bf16.
        loss_scale: a number (static), ``"dynamic"`` or -1, or the arguments of
            :class:`~mmcv_overrides.loss_scale.LossScale`.
        amp_dtype: ``fp16`` or ``bf16``; default: the one that suits the device.

    Raises:
        UserError: unknown level, type or scale.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        accumulative_counts: int = 1,
        clip_grad: dict | None = None,
        opt_level: str = "O0",
        loss_scale: float | str | dict = 1.0,
        amp_dtype: str | torch.dtype | None = None,
    ) -> None:
        super().__init__(optimizer, accumulative_counts, dict(clip_grad) if clip_grad else None)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = params[0].device
        self.opt_level = opt_level
        self.dtype = precision.half_dtype(opt_level, current(), amp_dtype)
        self.loss_scale = LossScale.parse(loss_scale, self.device)
        self._masters = MasterWeights(optimizer) if opt_level == "O2" else None
        self._prepare_momentum([p for group in optimizer.param_groups for p in group["params"] if p.requires_grad])
        self.last_params: list[torch.Tensor] = []
        self._loss_ok: torch.Tensor | None = None
        self.last_bad = torch.zeros((), device=self.device)
        self.last_loss_bad = torch.zeros((), device=self.device)
        self.last_grad_norm = torch.zeros((), device=self.device)
        self.last_norms = torch.zeros(len(params), device=self.device)

    @property
    def fused(self) -> bool:
        """Whether the optimizer skips a step on the device itself, by ``found_inf``."""
        return bool(self.optimizer.defaults.get("fused")) and getattr(
            self.optimizer, "_step_supports_amp_scaling", False
        )

    @property
    def model_params(self) -> list[torch.Tensor]:
        """The model's parameters in the order of the optimizer's groups."""
        if self._masters is not None:
            return self._masters.params
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def masters(self) -> list[torch.Tensor] | None:
        """At O2: what the optimizer updates for each of ``model_params``, in fp32; otherwise None."""
        return None if self._masters is None else self._masters.of(self.model_params)

    def lower(self, model: nn.Module) -> None:
        """At O2: cast ``model``, which has its initial weights, and keep its fp32 weights as masters.

        mmengine's Runner calls this by :meth:`initialize_count_status`, after initialisers, ``load_from`` and resume.
        """
        if self._masters is not None and self.dtype is not None:
            self._masters.lower(model, self.dtype)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Called by the Runner when the model has its initial weights: cast it for O2."""
        super().initialize_count_status(model, init_counts, max_counts)
        self.lower(model)

    def follow_weights(self) -> None:
        """At O2: update the masters of weights that were written to; :meth:`step` does so itself."""
        if self._masters is not None:
            self._masters.follow()

    def sync_masters(self) -> None:
        """At O2: compare all values at the next step; for writes through ``.data``, which cannot be detected."""
        if self._masters is not None:
            self._masters.recheck()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of the forward pass: gradient accumulation and autocast."""
        with super().optim_context(model), precision.autocast(self.opt_level, self.device.type, self.dtype):
            yield

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """Backward pass of the scaled loss (0-d); remember on the device whether the loss is finite."""
        finite = torch.isfinite(loss.detach()).all()
        self._loss_ok = finite if self._loss_ok is None else self._loss_ok & finite
        self.loss_scale.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        """Unscale, clip, check, update; skip the update if loss or gradients are not finite.

        Raises:
            UserError: no parameter has a gradient.
        """
        params = [p for p in self.model_params if p.grad is not None]
        if not params:
            raise UserError("no parameter has a gradient: is the whole model frozen?")
        self.last_params = params
        if self._masters is not None:
            params = self._masters.take_gradients(params)
        self._prepare_momentum(params)
        grads = [p.grad for p in params if p.grad is not None]
        self._unscale_and_clip(grads)
        self._judge()
        if self.fused:
            self.optimizer.found_inf = self.last_bad
            self.optimizer.step(**kwargs)
        elif not self.last_bad.item():
            self.optimizer.step(**kwargs)
        self.loss_scale.update(self.last_bad)
        if self._masters is not None:
            self._masters.write_back()

    def _unscale_and_clip(self, grads: list[torch.Tensor]) -> None:
        clip = self.clip_grad_kwargs or {}
        inverse = self.loss_scale.inverse()
        norm_type = float(clip.get("norm_type", 2.0))
        norms = torch.stack(torch._foreach_norm(grads, norm_type)).float()
        self.last_norms = norms * inverse
        self.last_grad_norm = torch.linalg.vector_norm(self.last_norms, norm_type)
        by_norm = "max_norm" in clip
        if by_norm:
            # The arithmetic of torch.nn.utils.clip_grad_norm_, with the unscaling folded into one multiplication.
            factor = (clip["max_norm"] / (self.last_grad_norm + 1e-6)).clamp(max=1.0) * inverse
            multiply_(grads, factor)
        elif not self.loss_scale.is_one:
            multiply_(grads, inverse)
        if "clip_value" in clip:
            torch._foreach_clamp_max_(grads, clip["clip_value"])
            torch._foreach_clamp_min_(grads, -clip["clip_value"])

    def _judge(self) -> None:
        """Decide alike on all ranks: gradients have been reduced already, the finiteness of the loss has not."""
        loss_ok = self._loss_ok if self._loss_ok is not None else torch.ones((), device=self.device, dtype=torch.bool)
        self._loss_ok = None
        loss_bad = (~loss_ok).float()
        bad = torch.maximum(loss_bad, (~torch.isfinite(self.last_grad_norm)).float())
        both = all_reduce_max(torch.stack([bad, loss_bad]))
        self.last_bad, self.last_loss_bad = both[0].clone(), both[1].clone()

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients of weights and masters."""
        self.optimizer.zero_grad(**kwargs)
        if self._masters is not None:
            self._masters.drop_gradients()

    def _prepare_momentum(self, params: list[torch.Tensor]) -> None:
        """Zero the momentum of new parameters: fused SGD leaves it uninitialised if it skips their first step."""
        if not (isinstance(self.optimizer, torch.optim.SGD) and self.fused):
            return
        state, taking_part = self.optimizer.state, set(params)
        for group in self.optimizer.param_groups:
            if group["momentum"] and not group["dampening"]:
                for p in group["params"]:
                    if p in taking_part and state[p].get("momentum_buffer") is None:
                        state[p]["momentum_buffer"] = torch.zeros_like(p)

    # ---- state ----

    def state_dict(self) -> dict:
        """The state of optimizer, loss scale and, at O2, masters (in the order of ``model_params``)."""
        state = super().state_dict()
        state["loss_scaler"] = self.loss_scale.state_dict()
        if self.masters is not None:
            state["masters"] = [m.detach() for m in self.masters]
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state of any opt level.

        Raises:
            UserError: it has other parameter groups.
        """
        state = dict(state_dict)
        self.loss_scale.load_state_dict(state.pop("loss_scaler", {}))
        masters = state.pop("masters", None)
        params = self.model_params
        state["param_groups"], sources = fit_groups(state, self.optimizer.param_groups)
        try:
            super().load_state_dict(state)
        except ValueError as error:
            raise UserError(
                f"cannot resume the optimizer: {error}. The checkpoint was written with other parameter groups; to "
                "start a new training from its weights use load_from",
                setting="load_from",
            ) from error
        if masters is not None:  # also at other levels: they are more precise than the weights of that checkpoint
            with torch.no_grad():
                for param, owner, source in zip(params, self.masters or params, sources, strict=True):
                    if source is not None:
                        owner.copy_(masters[source])
                        param.copy_(owner)
        self.sync_masters()


class AmpStepOptimWrapper(StepOptimWrapper):
    """Replaces mmengine's AmpOptimWrapper, with its arguments: by default O1 with a dynamic loss scale."""

    def __init__(
        self,
        loss_scale: float | str | dict = "dynamic",
        dtype: str | torch.dtype | None = None,
        use_fsdp: bool = False,
        opt_level: str = "O1",
        **kwargs: Any,
    ) -> None:
        if use_fsdp:
            raise UserError("use_fsdp is not supported by this optimizer wrapper; remove it from optim_wrapper")
        super().__init__(loss_scale=loss_scale, amp_dtype=dtype, opt_level=opt_level, **kwargs)


class _DropParamwiseLines(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (message.startswith("paramwise_options --") or " is skipped since its requires_grad=" in message)


def merge_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge groups of equal settings, in order of first appearance.

    mmengine makes one group per parameter, which turns one fused update into a hundred.
    """
    merged: dict[tuple, dict[str, Any]] = {}
    for group in groups:
        key = tuple(sorted((k, repr(v)) for k, v in group.items() if k != "params"))
        merged.setdefault(key, {**group, "params": []})["params"] += group["params"]
    return list(merged.values())


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

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: Any = None) -> None:
        """Add the parameters of ``module`` to ``params``; the outermost call merges the groups."""
        super().add_params(params, module, prefix=prefix, is_dcn_module=is_dcn_module)
        if not prefix:  # the outermost call
            _refuse_shared(params, module)
            params[:] = merge_groups(params)

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
        groups = wrapper.optimizer.param_groups
        sizes = "; ".join(
            f"{len(g['params'])} tensors at lr {g['lr']:g}, wd {g.get('weight_decay', 0):g}" for g in groups
        )
        print_log(f"optimizer {type(wrapper.optimizer).__name__}, {len(groups)} groups: {sizes}", logger="current")
        return wrapper

    def _prefer_fused(self) -> None:
        kind = self.optimizer_cfg["type"]
        cls = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
        if cls in FUSED and not self.optimizer_cfg.get("foreach"):
            self.optimizer_cfg.setdefault("fused", True)


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
        "OPTIM_WRAPPERS:OptimWrapper", StepOptimWrapper, "one step for every precision, no read-back, non-finite guard"
    ),
    Override(
        "OPTIM_WRAPPERS:AmpOptimWrapper",
        AmpStepOptimWrapper,
        "mixed precision also on CPU and NPU; static scale and bf16",
    ),
    Override(
        "OPTIM_WRAPPER_CONSTRUCTORS:DefaultOptimWrapperConstructor",
        MergedOptimWrapperConstructor,
        "few parameter groups and fused updates; upstream makes one group per parameter",
    ),
]
