"""A model of a few numbers in a real mmengine runner: what tests of the step, the loop and their hooks share."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

_count = itertools.count()


class Points(Dataset):
    """Sixteen points in four dimensions."""

    metainfo = {"classes": ("a",)}

    def __init__(self, size: int = 16):
        self.points = torch.randn(size, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index):
        return {"x": self.points[index]}


class Lists(Points):
    """Fetched as a whole batch, as torch allows it, with the indices as they came."""

    def __getitems__(self, indices):
        return [self[index] | {"index": index} for index in indices]


class Layers(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.one, self.norm, self.two = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.two(self.norm(self.one(x)).relu())


class Toy(BaseModel):
    """A model with a ``backbone``, as O2 expects of a detector, and one more layer.

    Args:
        frozen: part of the names of the parameters to freeze.
    """

    def __init__(self, init_cfg=None, frozen: str | None = None, backbone_init=None):
        super().__init__(init_cfg=init_cfg)
        torch.manual_seed(0)
        self.backbone, self.last = Layers(backbone_init), nn.Linear(4, 1)
        for name, param in self.named_parameters():
            param.requires_grad_(frozen is None or frozen not in name)

    def forward(self, x, mode="loss"):
        y = self.last(self.backbone(x)).float()
        return {"loss": (y - 1).square().mean()} if mode == "loss" else [y]


def toy_runner(
    folder: Path,
    model: nn.Module | None = None,
    hooks: tuple[Hook, ...] = (),
    epochs: int = 1,
    lr: float = 0.1,
    loader: dict | None = None,
    **options,
) -> Runner:
    """A runner over batches of four points. ``wrapper`` in options: the optimizer wrapper's arguments."""
    wrapper = {"optimizer": dict(type="SGD", lr=lr, momentum=0.9), **options.pop("wrapper", {})}
    data = dict(batch_size=4, num_workers=0, dataset=Points(), sampler=dict(type="DefaultSampler", shuffle=True),
                collate_fn=dict(type="default_collate"))  # fmt: skip
    return Runner(
        model=model or Toy(),
        work_dir=str(folder),
        train_dataloader={**data, **(loader or {})},
        train_cfg=options.pop("train_cfg", dict(type="EpochBasedTrainLoop", max_epochs=epochs)),
        optim_wrapper=options.pop("optim_wrapper", wrapper),
        default_hooks=options.pop("default_hooks", dict(logger=None)),
        custom_hooks=list(hooks),
        randomness=dict(seed=3),
        default_scope="mmengine",
        experiment_name=f"toy_{next(_count)}",
        **options,
    )


class At(Hook):
    """Calls ``do(runner)`` at one hook point, at an epoch or iteration."""

    priority = "LOW"

    def __init__(self, point: str, do, epoch: int | None = None, iteration: int | None = None):
        def call(runner, *args, **kwargs):
            if epoch in (None, runner.epoch) and iteration in (None, runner.iter):
                do(runner)

        setattr(self, point, call)


def named(runner: Runner) -> dict[str, torch.Tensor]:
    """The weights that the optimizer updates, by the model's names: fp32 masters at O2."""
    wrapper = runner.optim_wrapper
    owners = dict(zip(wrapper.model_params, wrapper.masters or wrapper.model_params, strict=True))
    model = getattr(runner.model, "module", runner.model)
    return {name: owners[p].detach().clone() for name, p in model.named_parameters() if p in owners}
