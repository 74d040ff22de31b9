"""What happens after steps with a non-finite loss or gradient: count, explain, abort in time.

The optimizer wrapper skips the step itself, on the device and on all ranks alike. This hook reads the outcomes back
together with the log lines, so it adds no synchronisation.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmcv_overrides.device import current
from mmcv_overrides.dispensable import Dispensable
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json
from mmcv_overrides.text_log import log_line_follows


class NonFiniteAbort(UserError):
    """Training was stopped after too many non-finite steps in a row."""


def image_names(data_batch: Any) -> list[str]:
    """Paths (or ids) of the images of a batch, of those samples that have them."""
    samples = data_batch.get("data_samples", []) if isinstance(data_batch, dict) else []
    return [str(s.metainfo.get("img_path", s.metainfo.get("img_id"))) for s in samples if hasattr(s, "metainfo")]


@HOOKS.register_module()
class NonFiniteGuardHook(Hook):
    """Counts skipped steps, writes the first of a streak to ``work_dir/nonfinite_<iteration>_rank<rank>.json``, aborts.

    A dynamic loss scale finds its value by overflowing gradients. They are counted separately, and they abort the
    training only if the streak is long enough to have reduced the scale from its start to below 1.

    Args:
        patience: number of non-finite steps in a row after which to abort.

    Raises:
        NonFiniteAbort: the streak is ``patience`` long.
    """

    # After the losses are put into the message hub (VERY_HIGH), before anything is saved (VERY_LOW).
    priority = "ABOVE_NORMAL"

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self.streak = self.skipped = self.overflows = 0
        self._waiting: list[dict] = []
        self._state = Dispensable("the list of inputs of a non-finite step")

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Keep the outcome of the step on the device; read it back when a log line follows."""
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

    def _flush(self, runner: Runner) -> None:
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

    def _judge(self, runner: Runner, step: dict, overflow: bool) -> None:
        scale = runner.optim_wrapper.loss_scale
        allowed = self.patience + (int(math.log2(scale.init_scale)) if overflow else 0)
        if self.streak >= allowed:
            raise NonFiniteAbort(
                f"stopped at iteration {step['iter']}: {self.streak} steps in a row had a loss or gradient that is not "
                f"finite. The weights are those from before the first of them. Likely causes, in this order: learning "
                f"rate {step['lr']:g} too high for the batch size; broken boxes in the annotations; fp16 overflow "
                f"(opt_level='bf16' or 'O0' avoids it). Details: {runner.work_dir}/nonfinite_*.json",
                setting="opt_level",
            )
        if not overflow:
            runner.logger.warning(
                f"iteration {step['iter']}: loss or gradient is not finite; step skipped ({self.skipped} so far, "
                f"{self.streak} in a row, abort at {allowed})"
            )

    def _dump(self, runner: Runner, step: dict) -> None:
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
        with self._state.attempt():
            write_json(path, facts, indent=1)
            runner.logger.warning(f"the inputs of the non-finite step of iteration {step['iter']} are listed in {path}")
