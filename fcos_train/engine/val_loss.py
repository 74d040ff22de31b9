"""The losses on the validation images, logged beside those of training."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from mmcv_overrides import precision


@HOOKS.register_module()
class ValLossHook(Hook):
    """Computes the losses on the validation images after every evaluation, as ``val/loss``, ``val/loss_cls``, ...

    They are the means over the batches of a loader, with the weights that were evaluated (those of a moving average, if
    there is one), in evaluation mode: BatchNorm uses its running statistics. The training is not affected.

    Args:
        dataloader: config of the loader; its images are prepared as for a test, its objects as for training.
    """

    priority = "ABOVE_NORMAL"  # before EMAHook puts the trained weights back, and before the logger writes its line

    def __init__(self, dataloader: dict) -> None:
        self._settings = dataloader
        self._loader: Any = None

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Compute the losses and hand them to the log of this evaluation."""
        if self._loader is None:
            self._loader = runner.build_dataloader(self._settings, seed=runner.seed)
        for name, value in self._losses(runner).items():
            runner.message_hub.update_scalar(f"val/{name}", value)

    @torch.no_grad()
    def _losses(self, runner: Any) -> dict[str, float]:
        """Mean of every loss over the batches and the ranks; ``loss`` is their sum."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.eval()
        sums: dict[str, list[torch.Tensor]] = defaultdict(list)
        wrapper = runner.optim_wrapper
        with torch.random.fork_rng(), precision.autocast(wrapper.opt_level, wrapper.device.type, wrapper.dtype):
            for batch in self._loader:
                data = model.data_preprocessor(batch, False)
                # the method of the class: compiled losses are made for the shapes of training
                losses = type(model).loss(model, data["inputs"], data["data_samples"])
                for name, value in model.parse_losses(losses)[1].items():
                    sums[name].append(value.detach().float().reshape(()))
        means = torch.stack([torch.stack(values).mean() for values in sums.values()])
        all_reduce(means, "mean")
        return dict(zip(sums, means.tolist(), strict=True))
