"""Layers that a hook unfreezes during training, in the trainer, where frozen norms are folded into convolutions."""

import pytest
import torch
from mmengine.hooks import Hook

from tests.support.commands import EXACT
from tests.support.trainings import Training

FROZEN = "model = dict(backbone=dict(frozen_stages=1))"


class Thaw(Hook):
    """From the second epoch on, stage 1 trains, with the scales and shifts of its norms, and stage 2 no longer does."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            backbone = runner.model.backbone
            backbone.frozen_stages = -1
            backbone.layer1.requires_grad_()
            backbone.layer2.requires_grad_(False)


@pytest.mark.parametrize("level", ["O0", "O1"])
def test_they_train_as_without_folding(shapes, tmp_path, level):
    """Six steps an epoch: frozen, then trained."""
    ours, stock = (
        Training(tmp_path / mode, shapes, level, 12, FROZEN, EXACT, (Thaw(),), step_mode=mode)
        for mode in ("eager", "mmdet")
    )
    assert ours.losses == pytest.approx(stock.losses, rel=1e-3 if level == "O0" else 1e-2)
    for name in ("conv1.weight", "bn1.weight", "bn2.bias", "conv2.weight"):
        key = f"backbone.layer1.0.{name}"
        moved = (stock.weights[key] - stock.first[key]).norm().item()
        assert moved > 1e-6, key  # the schedule is still warming up
        assert (ours.weights[key] - stock.weights[key]).norm().item() < (0.02 if level == "O0" else 0.3) * moved, key
    assert torch.equal(ours.weights["backbone.conv1.weight"], ours.first["backbone.conv1.weight"])
