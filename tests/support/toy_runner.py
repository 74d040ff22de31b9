"""A toy model in a real mmengine runner, for tests of the checkpoint hook and of the folder of a run."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset


class Points(Dataset):
    metainfo = {"classes": ("a", "b"), "palette": [(1, 2, 3), (1, 2, 3)]}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(())
        return {"x": torch.full((4,), float(index)) / 8 + noise}


class Toy(BaseModel):
    def __init__(self, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Linear(4, 4)
        self.conv_cls = torch.nn.Linear(4, width)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x, mode="loss"):
        y = self.drop(self.conv_cls(self.body(x)))
        return {"loss": (y**2).mean()} if mode == "loss" else [y.mean().item() + torch.rand(()).item()]


class Scores(BaseMetric):
    """Gives the next of ``values`` at each validation."""

    values: list = []

    def process(self, data_batch, data_samples):
        random.random(), np.random.rand(), torch.rand(3)
        self.results.append(0)

    def compute_metrics(self, results):
        return {"mAP": self.values.pop(0)}


class Record(Hook):
    """Every loss in full precision; can poison the weights, or stop the run, at an iteration."""

    def __init__(self, poison=None, stop=None):
        self.losses, self.poison, self.stop = [], poison, stop

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs["loss"].detach()))
        if runner.iter + 1 == self.poison:
            runner.model.conv_cls.weight.data[0, 0] = float("nan")
        if self.poison and runner.iter + 1 == self.poison + 4:
            runner.model.conv_cls.weight.data[0, 0] = 1.0

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.stop:
            runner.train_loop.stop_training = True


def toy_runner(folder: Path, epochs=4, scores=None, record=None, model=None, loop=None, **options) -> Runner:
    """A runner over 4 batches of 2 per epoch; validates each epoch when ``scores`` are given."""
    hook_options = {
        k: options.pop(k)
        for k in list(options)
        if k in ("interval", "by_epoch", "max_keep_ckpts", "save_best", "out_dir")
    }
    hook = dict(type="CheckpointHook", **{"interval": 1, **hook_options})
    hooks = {"checkpoint": hook, "logger": None, **options.pop("default_hooks", {})}
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=Points(),
        sampler=dict(type="DefaultSampler", shuffle=True),
        collate_fn=dict(type="default_collate"),
    )
    validation = {}
    if scores is not None:
        Scores.values = list(scores)
        validation = dict(val_dataloader=dict(loader), val_cfg=dict(), val_evaluator=Evaluator([Scores()]))
    return Runner(
        model=model or Toy(),
        work_dir=str(folder),
        train_dataloader=dict(loader),
        train_cfg=dict(loop or dict(by_epoch=True), max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.05, momentum=0.9)),
        param_scheduler=dict(type="MultiStepLR", milestones=[2], gamma=0.5),
        default_hooks=hooks,
        custom_hooks=[record or Record()],
        randomness=dict(seed=3),
        default_scope="mmengine",
        experiment_name=f"{folder.name}_{np.random.default_rng().integers(1 << 40)}",
        **validation,
        **options,
    )


def checkpoint_names(folder: Path) -> list[str]:
    """Checkpoints and temporary files of a folder."""
    return sorted(n for n in os.listdir(folder) if n.endswith(".pth") or "saving" in n)
