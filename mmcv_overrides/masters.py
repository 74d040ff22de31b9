"""fp32 master weights of opt level O2: where they come from and how they follow the model.

See Micikevicius et al., "Mixed Precision Training" (2018), section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from mmcv_overrides import precision
from mmcv_overrides.errors import UserError
from mmcv_overrides.parallel import DeviceDistributedDataParallel

HALF = (torch.float16, torch.bfloat16)


class MasterWeights:
    """fp32 copies of the 16-bit weights of a model, which the optimizer has in place of them.

    :meth:`lower` keeps the fp32 weights as masters when it rounds those of the model, so the initial weights lose no
    bits. A weight that is already in a 16-bit type (a model cast by the user, a frozen weight that a hook unfreezes)
    gets its master from the rounded value. Weights that are not rounded (norm layers) have no master.

    The model is the reference: a weight written to it (by a checkpoint or a hook) replaces its master at the next step.
    Writes are detected by the version and the address of a weight, which the host knows. A write through ``.data``
    changes neither; therefore values are also compared, on the device, at the first step and after :meth:`recheck`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._master: dict[Tensor, Tensor] = {}
        self._param: dict[Tensor, Tensor] = {}
        self._seen: dict[Tensor, tuple[int, int]] = {}
        self._active: list[Tensor] = []
        self._adopt({p: p.detach().float() for p in self.params if p.dtype in HALF and p.requires_grad})

    @property
    def params(self) -> list[Tensor]:
        """The model's weights in the order of the optimizer's groups."""
        return [self._param.get(p, p) for group in self.optimizer.param_groups for p in group["params"]]

    def of(self, params: Iterable[Tensor]) -> list[Tensor]:
        """What the optimizer updates for these weights: the master, or the weight itself if it has none."""
        return [self._master.get(p, p) for p in params]

    def lower(self, model: nn.Module, dtype: torch.dtype) -> None:
        """Cast ``model`` for O2; its fp32 weights become the masters. A second call casts nothing.

        Raises:
            UserError: a parallel wrapper whose buffers for fp32 gradients cannot be rebuilt.
        """
        bare = cast(nn.Module, model.module) if is_model_wrapper(model) else model
        if bare is not model and not isinstance(model, DeviceDistributedDataParallel) and not precision.is_cast(bare):
            raise UserError(
                f"opt level O2 casts the weights after {type(model).__name__} was built around them, which only "
                "MMDistributedDataParallel supports; use that wrapper, or opt level O1 or bf16"
            )
        # Including frozen weights that have been trained before and may be trained again.
        kept = {p: p.detach() for p in self.params if p.requires_grad or p in self.optimizer.state}
        precision.keep_losses_fp32(bare)
        precision.cast_weights(bare, dtype)
        self._adopt({p: weight for p, weight in kept.items() if p.dtype in HALF and p not in self._master})
        self.recheck()

    def take_gradients(self, params: list[Tensor]) -> list[Tensor]:
        """Give the masters of ``params`` their fp32 gradients. Returns what the optimizer has to update.

        Raises:
            UserError: no weight is in a 16-bit type.
        """
        self._adopt({p: p.detach().float() for p in params if p.dtype in HALF and p not in self._master})
        if not self._master:
            raise UserError(
                "opt level O2, but no weight of the model is in a 16-bit type: call optim_wrapper.lower(model) once "
                "the model has its initial weights (mmengine's Runner does so itself)"
            )
        self._active = params
        self.follow()
        for param in params:
            if param in self._master and param.grad is not None:
                self._master[param].grad = param.grad.float()
        return self.of(params)

    @torch.no_grad()
    def follow(self) -> None:
        """Update the masters of weights that were written to since the last step; others keep all their bits."""
        for param in self._active:
            master = self._master.get(param)
            if master is not None and self._seen.get(param) != _stamp(param):
                master.copy_(torch.where(param == master.to(param.dtype), master, param.float()))
                self._seen[param] = _stamp(param)

    def recheck(self) -> None:
        """Compare all values before the next step."""
        self._seen.clear()

    @torch.no_grad()
    def write_back(self) -> None:
        """After a step: round the masters into the model, except for weights that had no gradient in this step."""
        pairs = [(p, self._master[p]) for p in self._active if p in self._master]
        if pairs:
            torch._foreach_copy_([p for p, _ in pairs], [master for _, master in pairs])
        # A weight without a gradient in this step is compared by value when it has one again.
        self._seen = {p: _stamp(p) for p, _ in pairs}

    def drop_gradients(self) -> None:
        """Delete the gradients of weights and masters."""
        for param, master in self._master.items():
            param.grad = master.grad = None

    def _adopt(self, masters: dict[Tensor, Tensor]) -> None:
        """Replace weights in the optimizer by new masters, which take over the optimizer's state."""
        if not masters:
            return
        for param, master in masters.items():
            master.requires_grad_()
            self._param[master] = param
            if param in self.optimizer.state:
                self.optimizer.state[master] = self.optimizer.state.pop(param)
        self._master.update(masters)
        for group in self.optimizer.param_groups:
            group["params"] = [masters.get(p, p) for p in group["params"]]


def _stamp(param: Tensor) -> tuple[int, int]:
    return param._version, param.data_ptr()
