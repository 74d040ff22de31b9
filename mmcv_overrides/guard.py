"""What happens after steps whose loss or gradient was not finite: count, explain, stop in time.

The step itself is skipped by the optimizer wrapper, on the device and by all ranks alike; this hook reads the
outcomes back together with the log lines, so it costs no synchronisation of its own.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmcv_overrides.device import current
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json
from mmcv_overrides.text_log import log_line_follows


class NonFiniteAbort(UserError):
    """Training was stopped because one step after another was not finite."""


def image_names(data_batch) -> list[str]:
    """Paths (or ids) of the images of a batch, as far as its samples tell."""
    samples = data_batch.get("data_samples", []) if isinstance(data_batch, dict) else []
    return [str(s.metainfo.get("img_path", s.metainfo.get("img_id"))) for s in samples if hasattr(s, "metainfo")]


@HOOKS.register_module()
class NonFiniteGuardHook(Hook):
    """Counts skipped steps; dumps the first of a streak to ``work_dir/nonfinite_<iteration>.json``; aborts.

    With a dynamic loss scale an overflowing gradient is how the scale finds its level; it is counted apart, and only
    a streak long enough to have brought the scale from its start below 1 aborts as well.

    Args:
        patience: abort after so many non-finite steps in a row.

    Raises:
        NonFiniteAbort: the streak is ``patience`` long.
    """

    # After the losses were put in the hub (VERY_HIGH), before anything is saved (VERY_LOW).
    priority = "ABOVE_NORMAL"

    def __init__(self, patience: int = 10):
        self.patience = patience
        self.streak = self.skipped = self.overflows = 0
        self._waiting: list[dict] = []

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        wrapper = runner.optim_wrapper
        if not hasattr(wrapper, "last_bad"):
            return
        self._waiting.append(
            {
                "iter": runner.iter + 1,
                "images": image_names(data_batch),
                "losses": {k: torch.as_tensor(v).detach() for k, v in (outputs or {}).items()},
                "lr": wrapper.optimizer.param_groups[0]["lr"],
                "bad": torch.stack([wrapper.last_bad, wrapper.last_loss_bad]),
                "norms": wrapper.last_norms,
                "params": wrapper.last_params,
            }
        )
        if current().module is None or log_line_follows(runner, batch_idx):
            self._flush(runner)

    def _flush(self, runner) -> None:
        steps, self._waiting = self._waiting, []
        for step, (bad, loss_bad) in zip(steps, torch.stack([s["bad"] for s in steps]).tolist()):
            if not bad:
                self.streak = 0
                continue
            self.streak += 1
            self.skipped += 1
            overflow = runner.optim_wrapper.loss_scale.dynamic and not loss_bad
            self.overflows += overflow
            if self.streak == 1 and not overflow:
                self._dump(runner, step)
            self._judge(runner, step, overflow)

    def _judge(self, runner, step: dict, overflow: bool) -> None:
        scale = runner.optim_wrapper.loss_scale
        allowed = self.patience + (int(math.log2(scale.init_scale)) if overflow else 0)
        if self.streak >= allowed:
            raise NonFiniteAbort(
                f"stopped at iteration {step['iter']}: {self.streak} steps in a row had a loss or gradient that is not "
                f"finite. The weights are those before the first of them. Likely causes, in this order: learning rate "
                f"{step['lr']:g} too high for the batch size; broken boxes in the annotations; fp16 overflow "
                f"(opt_level='bf16' or 'O0' avoids it). Details: {runner.work_dir}/nonfinite_*.json",
                setting="opt_level",
            )
        if not overflow:
            runner.logger.warning(
                f"iteration {step['iter']}: loss or gradient is not finite; step skipped ({self.skipped} so far, "
                f"{self.streak} in a row, abort at {allowed})"
            )

    def _dump(self, runner, step: dict) -> None:
        names = {p: name for name, p in runner.model.named_parameters()}
        norms = zip(step["params"], step["norms"].tolist())
        facts = {
            "iter": step["iter"],
            "rank": get_rank(),
            "images": step["images"],
            "losses": {k: str(v.float().mean().item()) for k, v in step["losses"].items()},
            "lr": step["lr"],
            "loss_scale": runner.optim_wrapper.loss_scale.value(),
            "gradients_not_finite": [names.get(p, "?") for p, v in norms if not math.isfinite(v)],
        }
        path = Path(runner.work_dir) / f"nonfinite_{step['iter']}_rank{get_rank()}.json"
        write_json(path, facts, indent=1)
        runner.logger.warning(f"what led to the non-finite step of iteration {step['iter']} is in {path}")
