"""Flags of the recipe: what each changes in data, model and steps. Precedence is in ``test_prepare.py``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmdet.registry import DATASETS, MODELS

from fcos_train.config import packages
from fcos_train.config.freeze import set_freeze
from fcos_train.config.load import load_config
from fcos_train.config.options import TrainOptions
from fcos_train.data.shapes import make_shapes
from fcos_train.engine.final_config import final_config
from fcos_train.engine.runner import build_runner
from mmcv_overrides.errors import UserError

from .test_prepare import TINY, prepared


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """Eight training images; the last two show nothing, and one alone shows a triangle."""
    folder = make_shapes(tmp_path_factory.mktemp("few"), train=8, val=2, size=(96, 80), seed=0)
    file = folder / "annotations" / "instances_train2017.json"
    data = json.loads(file.read_text())
    images = [image["id"] for image in data["images"]]
    first = {}
    for annotation in data["annotations"]:
        first.setdefault(annotation["image_id"], annotation)
    kept = [first[image] for image in images[:6]]
    for annotation, image in zip(kept, images[:6], strict=True):
        annotation.update(category_id=data["categories"][0 if image != images[0] else 2]["id"])
    file.write_text(json.dumps({**data, "annotations": kept}))
    return folder


def dataset(folder: Path, data: Path, **flags):
    cfg, _ = prepared(folder, data_path=str(data), check=False, **flags)
    return DATASETS.build(cfg.train_dataloader.dataset)


@pytest.mark.parametrize(
    ("flags", "length"),
    [
        ({}, 6),
        ({"keep_empty": True}, 8),
        # one of 6 images shows a triangle: sqrt(0.6 / (1/6)) = 1.9 times, so twice
        ({"balance": 0.6}, 7),
        # one of 8: sqrt(0.6 / (1/8)) = 2.2, three times; those of 5/8 once, images without objects once
        ({"balance": 0.6, "keep_empty": True}, 10),
    ],
)
def test_images_of_an_epoch(tmp_path, few, flags, length):
    assert len(dataset(tmp_path, few, **flags)) == length


def test_gradients_of_two_batches_make_a_step(tmp_path, few):
    """The first batch leaves the weights as they are; the second one's step follows the mean of both gradients."""
    data = {"data_path": str(few), "workers": 0, "batch_size": 2, "seed": 0, "check": False, "opt_level": "O0"}
    clip = {"optim_wrapper.clip_grad": None, "optim_wrapper.loss_scale": 1.0, "work_dir": str(tmp_path)}
    (tmp_path / "one").mkdir()
    cfg, notes = prepared(tmp_path / "one", options=clip, accumulate=2, lr=0.5, **data)
    assert any("gradients of 2 batches make a step" in note for note in notes)
    cfg.optim_wrapper["optimizer"] = dict(type="SGD", lr=0.5)
    cfg.optim_wrapper["paramwise_cfg"] = None
    runner = build_runner(cfg, "accumulate")
    wrapper = runner.build_step()
    wrapper.initialize_count_status(runner.model, 0, 10)
    batches = list(runner.build_dataloader(cfg.train_dataloader, seed=0))[:2]
    name, weight = next((n, p) for n, p in runner.model.named_parameters() if n.endswith("conv_cls.weight"))
    before = weight.detach().clone()
    grads = []
    for batch in batches:
        losses = runner.model.loss(**_inputs(runner.model.data_preprocessor(batch, True)))
        grads.append(torch.autograd.grad(runner.model.parse_losses(losses)[0], weight)[0])
    runner.model.train_step(batches[0], wrapper)
    assert torch.equal(weight, before)
    runner.model.train_step(batches[1], wrapper)
    torch.testing.assert_close(before - weight.detach(), 0.5 * (grads[0] + grads[1]) / 2, rtol=1e-3, atol=1e-6)


def _inputs(data: dict) -> dict:
    return {"batch_inputs": data["inputs"], "batch_data_samples": data["data_samples"]}


@pytest.mark.parametrize(("wanted", "trained"), [("0", ["layer1"]), ("2", ["layer3"]), ("backbone", [])])
def test_frozen_stages(wanted, trained):
    cfg = load_config("fcos/fcos_tiny_shapes")
    lines = set_freeze(cfg, wanted)
    backbone = MODELS.build(cfg.model.backbone)
    backbone.train()
    names = [name for name, param in backbone.named_parameters() if param.requires_grad]
    assert [names[0].split(".")[0]] == trained if trained else names == []
    assert "million weights of the backbone are not trained" in lines[0]


@pytest.mark.parametrize(
    ("base", "wanted", "message"),
    [
        ("fcos/fcos_tiny_shapes", "5", "ResNet refuses frozen_stages=5"),
        ("mmdet::hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco", "1", "HRNet refuses frozen_stages=1"),
    ],
)
def test_stages_that_a_backbone_lacks(base, wanted, message):
    with pytest.raises(UserError, match=message):
        set_freeze(load_config(base), wanted)


def test_images_and_batches_have_the_new_size(tmp_path, few):
    cfg, _ = prepared(tmp_path, data_path=str(few), img_size=(128, 64), augment="light")
    assert cfg.train_dataloader.collate_fn.shapes == [(64, 128), (128, 64)]
    assert DATASETS.build(cfg.train_dataloader.dataset)[0]["inputs"].shape == (3, 64, 77)  # of 96 x 80 px
    assert DATASETS.build(cfg.val_dataloader.dataset)[0]["inputs"].shape == (3, 64, 77)


def test_the_average_is_as_long_as_the_run_allows(tmp_path, few):
    """Six images in batches of 2 over 100 epochs are 300 steps: momentum 20/300, gamma 30."""
    cfg, _ = prepared(tmp_path, data_path=str(few), ema=True, max_epochs=100, batch_size=2)
    hook = next(hook for hook in cfg.custom_hooks if hook.type == "EMAHook")
    images = 6 if hook.gamma == 30 else 8
    assert hook.momentum == pytest.approx(20 / (images // 2 * 100)) and hook.gamma == images // 2 * 10


REFUSALS = {
    "no evaluation": ({"patience": 2, "val_loss": True, "validate": False}, "--patience, --val-loss needs evaluations"),
    "two learning rates": ({"lr": 0.1, "lr_base": 8}, "--lr is taken as it is, and --lr-base"),
    "zero": ({"lr": 0.0}, "--lr 0.0: must be above 0"),
    "stages": ({"freeze": "neck"}, "give a number of stages, or backbone"),
    "share": ({"balance": 2.0}, "--balance 2.0: must be between 0.001 and 1"),
    "small": ({"img_size": (16, 64)}, "--img-size 16: must be between 32 and 16384"),
    "logger": ({"logger": ("comet",)}, "choose from tensorboard, wandb, mlflow, clearml"),
}


@pytest.mark.parametrize("row", REFUSALS)
def test_refused_before_torch_is_imported(row):
    flags, message = REFUSALS[row]
    with pytest.raises(UserError, match=message):
        TrainOptions("c.py", **flags)


LATER = {
    "random weights": ({"freeze": "1"}, "", "the frozen stages would keep random weights"),
    "one cycle": ({"lr": 0.1}, "param_scheduler = [dict(type='OneCycleLR', eta_max=0.1)]", "change its eta_max"),
    "sizes of its own": (
        {"img_size": (64, 64)},
        "train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline[:3] + "
        "[dict(type='RandomCrop', crop_size=(32, 32))] + _base_.train_pipeline[3:]))",
        "needs a pipeline with one step that resizes; train_dataloader has Resize, RandomCrop",
    ),
}


@pytest.mark.parametrize("row", LATER)
def test_refused_for_this_config(row, tmp_path, few):
    flags, text, message = LATER[row]
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, text, data_path=str(few), **flags)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "clearml"])
def test_a_logger_without_its_package(name, tmp_path, few, monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda module: module != name)
    with pytest.raises(UserError, match=f"needs {name}, which is not installed: pip install {name}"):
        prepared(tmp_path, data_path=str(few), logger=("tensorboard", name))


def test_the_printed_config_is_that_of_the_training(tmp_path, few):
    """Loaded again, without flags, it says the same; where its data set is absent, its section stays."""
    flags = dict(data_path=str(few), img_size=(64, 64), lr=0.3, balance=0.5, device="cpu", work_dir=str(tmp_path / "w"))
    text, _ = final_config(TrainOptions(TINY, **flags))
    assert not (tmp_path / "w").exists()
    file = tmp_path / "printed.py"
    file.write_text(text)
    cfg = load_config(str(file))
    assert (cfg.optim_wrapper.optimizer.lr, cfg.train_dataloader.dataset.type) == (0.3, "ClassBalancedDataset")
    assert cfg.work_dir == str(tmp_path / "w") and cfg.model.bbox_head.num_classes == 3
    with pytest.raises(UserError, match="trains nothing: leave out --resume and --overwrite"):
        final_config(TrainOptions(TINY, overwrite=True))
