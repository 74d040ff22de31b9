"""Static and dynamic loss scale without read-backs.

Dynamic scaling follows Micikevicius et al., "Mixed Precision Training" (2018), section 3.2, as torch.amp.GradScaler
does; the state has GradScaler's keys. Unlike in GradScaler, nothing is read back to the host.
"""

from __future__ import annotations

import torch

from mmcv_overrides.errors import UserError


class LossScale:
    """A loss scale that is kept on the device.

    Args:
        init_scale: the scale at the start, or always if static. Dynamic scaling starts at 1024 instead of GradScaler's
            65536: with that, about a dozen steps of a detector overflow first, which is harmful on an NPU.
        dynamic: reduce the scale after an overflow, raise it after ``growth_interval`` steps without one.
        growth_factor: factor of a raise.
        backoff_factor: factor of a reduction.
        growth_interval: number of steps without overflow before a raise.
        device: of the scale.
    """

    def __init__(
        self,
        init_scale: float = 1024.0,
        dynamic: bool = True,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        device: torch.device | str = "cpu",
    ) -> None:
        self.dynamic = dynamic
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval
        self.init_scale = float(init_scale)
        self._scale = torch.full((), self.init_scale, device=device)
        self._growth_tracker = torch.zeros((), dtype=torch.int32, device=device)

    @classmethod
    def parse(cls, spec: float | str | dict, device: torch.device | str) -> LossScale:
        """From the notations of users: 32.0, "32", "dynamic", -1, or a dict of arguments.

        Raises:
            UserError: anything else, or a scale that is not positive.
        """
        if isinstance(spec, dict):
            known = {"init_scale", "growth_factor", "backoff_factor", "growth_interval", "dynamic", "enabled"}
            if set(spec) - known:
                raise UserError(f"loss_scale: unknown keys {sorted(set(spec) - known)}; known are {sorted(known)}")
            settings = {key: value for key, value in spec.items() if key != "enabled"}  # of torch's GradScaler
            if not spec.get("enabled", True):
                return cls(init_scale=1.0, dynamic=False, device=device)
            return cls(**settings, device=device)
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
        """Whether the scale is always 1."""
        return not self.dynamic and self.init_scale == 1.0

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """The scaled loss, 0-d."""
        return loss if self.is_one else loss * self._scale

    def inverse(self) -> torch.Tensor:
        """1 / scale, f32 0-d on the device."""
        return self._scale.reciprocal()

    def update(self, found_inf: torch.Tensor) -> None:
        """Reduce after an overflow (``found_inf`` 1.0, 0-d), raise after enough steps without one; no-op if static."""
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
        """The scale on the host; a read-back if dynamic."""
        return self._scale.item() if self.dynamic else self.init_scale

    def state_dict(self) -> dict:
        """The state under the names of torch.amp.GradScaler."""
        return {
            "scale": self.value(),
            "dynamic": self.dynamic,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": int(self._growth_tracker.item()) if self.dynamic else 0,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue with the stored scale of a resumed run; a static scale of the config has precedence over it."""
        if self.dynamic and "scale" in state:
            self._scale.fill_(float(state["scale"]))
            self._growth_tracker.fill_(int(state.get("_growth_tracker", 0)))
