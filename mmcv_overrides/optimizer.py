"""ONE optimizer step for every precision: scale, backward, unscale, clip, check, step, update.

The step reads nothing back to the host: loss scale, gradient norm and the decision to skip stay on the device, where
fused optimizers use the decision (their ``found_inf``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmcv_overrides import precision
from mmcv_overrides.device import current
from mmcv_overrides.errors import UserError
from mmcv_overrides.loss_scale import LossScale
from mmcv_overrides.masters import MasterWeights
from mmcv_overrides.optimizer_state import arranged, check_same_optimizer, fitting_state
from mmcv_overrides.parallel import all_reduce_max
from mmcv_overrides.parameter_groups import UpstreamGroups, merge_groups
from mmcv_overrides.seams import Override


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
        # Both are set by the constructor of the config; without one, the groups are those of the optimizer.
        self.upstream = UpstreamGroups()
        self.fused_by_default = False
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

    def upstream_order(self) -> list[tuple[int, list[torch.Tensor]]]:
        """The groups that mmengine would have, each with the index of the group that its parameters are in."""
        groups = self._params_of_groups()
        return self.upstream.order(groups) if self.upstream.groups else list(enumerate(groups))

    def _params_of_groups(self) -> list[list[torch.Tensor]]:
        params = iter(self.model_params)
        return [[next(params) for _ in group["params"]] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict:
        """The state of optimizer, loss scale and, at O2, masters, with the parameter groups of mmengine.

        ``param_names`` names the parameters in the order of the groups, ``optimizer_type`` the class of the optimizer.
        """
        state, order = super().state_dict(), self.upstream_order()
        state["optimizer_type"] = type(self.optimizer).__name__
        if self.upstream.groups:
            state = arranged(state, self._params_of_groups(), order)
            names = self.upstream.names
            state["param_names"] = [names.get(param, "") for _, params in order for param in params]
        if self.fused_by_default:  # mmengine resumes with the flags of the checkpoint, and its default is no fused one
            state["param_groups"] = [{**group, "fused": None} for group in state["param_groups"]]
        state["loss_scaler"] = self.loss_scale.state_dict()
        if self._masters is not None:
            owners = self._masters.of(param for _, params in order for param in params)
            state["masters"] = [owner.detach() for owner in owners]
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state of any opt level, written by this class or by mmengine's own wrappers.

        Raises:
            UserError: it is of another optimizer, or has other parameters.
        """
        state = dict(state_dict)
        check_same_optimizer(state, self.optimizer, state.pop("optimizer_type", None))
        self.loss_scale.load_state_dict(state.pop("loss_scaler", {}))
        masters, names = state.pop("masters", None), state.pop("param_names", None)
        merged = self.optimizer.param_groups
        order = self.upstream_order()
        if names is None and len(state["param_groups"]) == len(merged) != len(order):  # merged, of an earlier release
            order = list(enumerate(self._params_of_groups()))
        groups = [{**merged[source], "params": self._owners(params)} for source, params in order]
        params = [params for _, params in order]
        fitted, sources = fitting_state(state, groups, names, self.upstream, params)
        self.optimizer.param_groups = groups
        super().load_state_dict(fitted)
        if self.upstream.groups:
            self.optimizer.param_groups = merge_groups(self.optimizer.param_groups)
        if masters is not None:  # also at other levels: they are more precise than the weights of that checkpoint
            with torch.no_grad():
                for param, source in zip((p for group in params for p in group), sources, strict=True):
                    if source is not None:
                        self._owners([param])[0].copy_(masters[source])
                        param.copy_(self._owners([param])[0])
        self.sync_masters()

    def _owners(self, params: list[torch.Tensor]) -> list[torch.Tensor]:
        """What the optimizer updates for these parameters of the model."""
        return params if self._masters is None else self._masters.of(params)


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


OVERRIDES = [
    Override(
        "OPTIM_WRAPPERS:OptimWrapper", StepOptimWrapper, "one step for every precision, no read-back, non-finite guard"
    ),
    Override(
        "OPTIM_WRAPPERS:AmpOptimWrapper",
        AmpStepOptimWrapper,
        "mixed precision also on CPU and NPU; static scale and bf16",
    ),
]
