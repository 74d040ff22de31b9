"""Static and dynamic loss scale without read-backs.

Dynamic scaling is that of Micikevicius et al., "Mixed Precision Training" (2018), section 3.2, as torch.amp.GradScaler
does it; the state has GradScaler's keys. Unlike GradScaler nothing is read to the host.
"""

from __future__ import annotations

import torch

from mmcv_overrides.errors import UserError


class LossScale:
    """A loss scale that lives on the device.

    Args:
        init_scale: the scale at the start (or for ever, when static). Dynamic scaling starts at 1024, not at
            GradScaler's 65536: the first dozen overflowing steps of a detector do harm on an NPU and help nobody.
        dynamic: halve on overflow, double after ``growth_interval`` good steps.
    """

    def __init__(
        self, init_scale=1024.0, dynamic=True, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000, device="cpu"
    ):
        self.dynamic = dynamic
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval
        self.init_scale = float(init_scale)
        self._scale = torch.full((), self.init_scale, device=device)
        self._growth_tracker = torch.zeros((), dtype=torch.int32, device=device)

    @classmethod
    def parse(cls, spec: float | str | dict, device) -> LossScale:
        """From what users write: 32.0, "32", "dynamic", -1, or a dict of arguments.

        Raises:
            UserError: anything else, or a scale that is not positive.
        """
        if isinstance(spec, dict):
            known = {"init_scale", "growth_factor", "backoff_factor", "growth_interval", "dynamic"}
            if set(spec) - known:
                raise UserError(f"loss_scale: unknown keys {sorted(set(spec) - known)}; known are {sorted(known)}")
            return cls(**spec, device=device)
        if spec == "dynamic":
            return cls(device=device)
        try:
            value = float(spec)
        except (TypeError, ValueError):
            raise UserError(
                f"loss scale {spec!r}: give a number such as 32.0, or 'dynamic' (-1 means dynamic)"
            ) from None
        if value == -1:
            return cls(device=device)
        if not 0 < value < float("inf"):
            raise UserError(f"loss scale {value}: must be positive and finite (-1 or 'dynamic' for dynamic scaling)")
        return cls(init_scale=value, dynamic=False, device=device)

    @property
    def is_one(self) -> bool:
        return not self.dynamic and self.init_scale == 1.0

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        return loss if self.is_one else loss * self._scale

    def inverse(self) -> torch.Tensor:
        """1 / scale, 0-d on the device."""
        return self._scale.reciprocal()

    def update(self, found_inf: torch.Tensor) -> None:
        """Shrink after an overflow (``found_inf`` 1.0), grow after enough good steps; a static scale stays."""
        if self.dynamic:
            torch._amp_update_scale_(
                self._scale,
                self._growth_tracker,
                found_inf,
                self.growth_factor,
                self.backoff_factor,
                self.growth_interval,
            )

    def value(self) -> float:
        """The scale on the host (a read-back when dynamic)."""
        return self._scale.item() if self.dynamic else self.init_scale

    def state_dict(self) -> dict:
        return {
            "scale": self.value(),
            "dynamic": self.dynamic,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": int(self._growth_tracker.item()) if self.dynamic else 0,
        }

    def load_state_dict(self, state: dict) -> None:
        """Take over the scale of a run that is resumed; a static scale given anew wins over the stored one."""
        if self.dynamic and "scale" in state:
            self._scale.fill_(float(state["scale"]))
            self._growth_tracker.fill_(int(state.get("_growth_tracker", 0)))
