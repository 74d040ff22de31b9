"""One training with the flags that act on evaluations: early stop, interval, moving average, validation losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from fcos_train.config.options import TrainOptions
from fcos_train.data.shapes import make_shapes
from fcos_train.engine.run import train
from fcos_train.engine.val_loss import ValLossHook


def test_evaluations_of_a_training_that_learns_nothing(tmp_path: Path):
    """A learning rate of 1e-12 keeps mAP constant: with --patience 1 the second evaluation, after epoch 4, is the last.

    The validation losses in the log are those of the saved weights on mmdet's own path.
    """
    data = make_shapes(tmp_path / "data", train=4, val=3, size=(96, 80), seed=0)
    flags = dict(lr=1e-12, patience=1, eval_every=2, max_epochs=8, val_loss=True, ema=True, opt_level="O0")
    files = dict(data_path=str(data), work_dir=str(tmp_path / "run"), workers=0, batch_size=2, device="cpu", seed=0)
    runner = train(TrainOptions("fcos/fcos_tiny_shapes", **flags, **files))
    log = next((tmp_path / "run").glob("*.log.json")).read_text().splitlines()
    val = [record for record in map(json.loads, log) if record["mode"] == "val"]
    assert [record["epoch"] for record in val] == [2, 4] and runner.epoch == 4

    saved = torch.load(tmp_path / "run" / "latest.pth", weights_only=False)
    assert "ema_state_dict" in saved
    losses = losses_on_mmdets_path(runner, saved["state_dict"])
    assert {"loss", "loss_cls", "loss_bbox", "loss_centerness"} <= set(val[-1])
    for name, value in losses.items():
        assert val[-1][name] == pytest.approx(value, rel=2e-4), name


def losses_on_mmdets_path(runner, weights: dict) -> dict[str, float]:
    """Mean losses of batches of 2 images, by mmdet's head and batches."""
    from mmdet.registry import MODELS

    hook = next(hook for hook in runner.hooks if isinstance(hook, ValLossHook))
    loader = Config(dict(l=hook._settings)).l
    assert loader.batch_size == 2 and [step.type for step in loader.dataset.pipeline][:2] == [
        "LoadImage",
        "LoadAnnotations",
    ]
    loader["collate_fn"] = dict(type="pseudo_collate")
    model_cfg = Config(dict(m=runner.cfg.model)).m
    model_cfg.bbox_head["type"], model_cfg.data_preprocessor["type"] = "FCOSHead", "DetDataPreprocessor"
    model = MODELS.build(model_cfg)
    model.load_state_dict(weights)
    model.eval()
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        for batch in runner.build_dataloader(loader, seed=0):
            data = model.data_preprocessor(batch, False)
            for name, value in model.parse_losses(model.loss(data["inputs"], data["data_samples"]))[1].items():
                found.setdefault(name, []).append(value.item())
    return {name: sum(values) / len(values) for name, values in found.items()}
