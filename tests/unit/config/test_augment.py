"""``--augment``: what reaches the model. Each test looks at batches of a loader that a prepared config builds."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import HOOKS
from mmengine.runner import Runner

from fcos_train.config import augment
from fcos_train.data.shapes import make_shapes
from mmcv_overrides.errors import UserError
from mmcv_overrides.loop import seed_batches

from .test_prepare import at, prepared


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("few"), train=8, val=2, size=(96, 80), seed=0)


def batches(folder: Path, data: Path, preset: str | None, epoch: int = 0, workers: int = 0, text: str = "") -> list:
    """Images u8 [4, 3, 96, 96] and boxes of one epoch."""
    folder.mkdir(parents=True)
    cfg, _ = prepared(folder, text, data_path=str(data), augment=preset, workers=workers, check=False)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    seed_batches(loader, 0)
    loader.batch_sampler.epoch = epoch
    return [(item["inputs"], item["data_samples"]) for item in loader]


def objects(data: list) -> list[torch.Tensor]:
    """Boxes [n, 4] of every image."""
    return [boxes[:count] for _, padded in data for boxes, count in zip(padded.boxes, padded.count, strict=True)]


def same(one: list, other: list) -> bool:
    return all(torch.equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))


STEPS = "train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline[:3] + [{}] + _base_.train_pipeline[-1:]))"


def with_steps(*steps: str) -> str:
    return STEPS.format(", ".join(steps))


def test_none_is_without_random_changes(tmp_path, few):
    text = with_steps("dict(type='RandomFlip', prob=1.0)", "dict(type='PhotoMetricDistortion')")
    plain = with_steps("dict(type='RandomFlip', prob=0.0)")
    expected = batches(tmp_path / "plain", few, None, text=plain)
    assert not same(batches(tmp_path / "flipped", few, None, text=text), expected)
    assert same(batches(tmp_path / "0", few, "none", text=text), expected)
    assert same(batches(tmp_path / "1", few, "none", epoch=1, text=text), expected)


@pytest.mark.parametrize("preset", ["light", "strong"])
def test_images_change_and_shapes_stay(preset, tmp_path, few):
    epochs = [batches(tmp_path / f"{n}", few, preset, n) for n in range(3)]
    assert {(tuple(images.shape), images.dtype) for data in epochs for images, _ in data} == {
        ((4, 3, 96, 96), torch.uint8)
    }
    assert not same(epochs[0], epochs[1])
    assert all((boxes[:, 2:] > boxes[:, :2]).all() for data in epochs for boxes in objects(data))


def test_zoom_of_light(tmp_path, few):
    """Every object that stays within its image is 0.8 to 1.25 times as large as without changes, and both occur."""
    plain = objects(batches(tmp_path / "none", few, "none"))
    factors = []
    for epoch in range(4):
        for before, after in zip(plain, objects(batches(tmp_path / f"{epoch}", few, "light", epoch)), strict=True):
            if len(before) == len(after):
                whole = ((after > 0.5) & (after < torch.tensor([95.5, 79.5]).repeat(2))).all(1)
                factors += ((after[:, 2] - after[:, 0]) / (before[:, 2] - before[:, 0]))[whole].tolist()
    assert len(factors) > 30 and 0.79 < min(factors) < 0.9 and 1.1 < max(factors) < 1.26


def test_mosaics_do_not_depend_on_the_workers(tmp_path, few):
    assert same(batches(tmp_path / "0", few, "strong"), batches(tmp_path / "2", few, "strong", workers=2))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_last_quarter_of_strong_is_light(tmp_path, few, monkeypatch, workers):
    """Epoch 4 of 4 has the images of ``light`` to the last bit, with persistent workers too; epoch 3 has not."""
    monkeypatch.setattr(augment, "MIXING", [{"type": "SameSizeMosaic", "prob": 1.0}])
    cfg, _ = prepared(tmp_path, data_path=str(few), augment="strong", workers=workers, max_epochs=4)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    seed_batches(loader, 0)
    hook = HOOKS.build(next(hook for hook in cfg.custom_hooks if hook.type == "PipelineSwitchHook"))
    runner = SimpleNamespace(train_dataloader=loader, logger=logging.getLogger())
    equal = []
    for epoch in (2, 3):
        runner.epoch = loader.batch_sampler.epoch = epoch
        hook.before_train_epoch(runner)
        strong = [(item["inputs"], None) for item in loader]
        equal.append(same(strong, batches(tmp_path / f"{epoch}", few, "light", epoch)))
    assert equal == [False, True]


def test_the_switch_follows_the_epochs(tmp_path, few):
    cfg, notes = prepared(tmp_path, data_path=str(few), augment="strong", max_epochs=40)
    assert [h.switch_epoch for h in cfg.custom_hooks if h.type == "PipelineSwitchHook"] == [30]
    assert "augmentation strong: light from epoch 31 on, of 40" in notes


def test_flips_of_the_config_are_kept_and_the_rest_is_named(tmp_path, few):
    text = with_steps("dict(type='RandomFlip', prob=0.5, direction='vertical')", "dict(type='RandomShift')")
    cfg, notes = prepared(tmp_path, text, data_path=str(few), augment="light")
    steps = cfg.train_dataloader.dataset.pipeline
    assert [step.direction for step in steps if step.type == "RandomFlip"] == ["vertical"]
    assert "augmentation light replaces RandomShift of the config" in notes


def test_sizes_that_vary_become_one(tmp_path, few):
    text = (
        "train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline[:2] + "
        "[dict(type='RandomChoiceResize', scales=[(64, 48), (96, 80)], keep_ratio=True)] + _base_.train_pipeline[3:]))"
    )
    cfg, _ = prepared(tmp_path, text, data_path=str(few), augment="none")
    assert at(cfg, "train_dataloader.dataset.pipeline.2") == dict(type="Resize", scale=(96, 80), keep_ratio=True)


REFUSALS = {
    "unknown step": (with_steps("dict(type='RandomChoice', transforms=[])"), "light", "nor replace RandomChoice"),
    "masks": (
        "model = dict(bbox_head=dict(type='FCOSHead'))\n"
        "train_dataloader = dict(dataset=dict(pipeline=[_base_.train_pipeline[0], "
        "dict(type='LoadAnnotations', with_bbox=True, with_mask=True)] + _base_.train_pipeline[2:]))",
        "strong",
        "trains masks",
    ),
    "iterations": (
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)",
        "strong",
        "counts iterations: use light",
    ),
    "switched": (
        "custom_hooks = [dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=[])]",
        "none",
        "switches its pipeline itself",
    ),
}


@pytest.mark.parametrize("row", REFUSALS)
def test_refused_at_the_start(row, tmp_path, few):
    text, preset, message = REFUSALS[row]
    with pytest.raises(UserError, match=rf"--augment {preset}: .*{message}|--augment {preset} .*{message}"):
        prepared(tmp_path, text, data_path=str(few), augment=preset)


def test_a_detector_of_two_stages_takes_them_too(tmp_path, few):
    """Presets concern the data, not the model: any detector of boxes takes them."""
    cfg, _ = prepared(
        tmp_path, base="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco", data_path=str(few), augment="strong"
    )
    assert at(cfg, "train_dataloader.dataset.type") == "MultiImageMixDataset"
