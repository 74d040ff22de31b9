"""``--step-mode compile``: forward pass and losses of the fixed-shape step as one torch.compile graph per shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from fcos_train.geometry.padded import PaddedObjects
from mmcv_overrides.errors import UserError

# Image shapes (two by default) x padded lengths of objects (8, 16, ... 512) and of ignored regions, with a margin.
MOST_GRAPHS = 64


def losses(model: Any, images: Tensor, objects: PaddedObjects) -> dict[str, Tensor]:
    """The compiled function: normalised images [B, 3, H, W] -> losses of the detector, 0-d f32."""
    return type(model).loss(model, images, objects)


class CompiledLoss:
    """The ``loss`` of a detector through torch.compile, with one graph per shape of images and padded objects.

    It never falls back to uncompiled code: a loss that is more than one graph is an error.

    Args:
        model: a detector; :func:`compile_losses` installs the instance as its ``loss``.
        log: receives a line for every graph.
        backend: backend of torch.compile.
    """

    def __init__(self, model: nn.Module, log: Callable[[str], None], backend: str = "inductor") -> None:
        self.model, self.log = model, log
        self.seen: set[tuple] = set()
        self._run = torch.compile(losses, fullgraph=True, dynamic=False, backend=backend)

    def __call__(self, images: Tensor, objects: PaddedObjects) -> dict[str, Tensor]:
        """Losses of normalised images [B, 3, H, W], 0-d f32.

        Raises:
            UserError: batches of too many shapes, or code that torch.compile does not support.
        """
        if not isinstance(objects, PaddedObjects):
            raise UserError(
                f"--step-mode compile needs batches of fixed shape, got {type(objects).__name__}; use eager"
            )
        objects = replace(objects, samples=())
        shape = (tuple(images.shape), objects.table.shape[1] - 1, objects.places)
        if shape in self.seen:
            return self._run(self.model, images, objects)
        if len(self.seen) == MOST_GRAPHS:
            raise UserError(
                f"--step-mode compile: more than {MOST_GRAPHS} shapes of batches; use fewer image shapes, or eager"
            )
        start = time.perf_counter()
        result = self._compile(images, objects)
        self.seen.add(shape)
        count, _, height, width = images.shape
        spent = time.perf_counter() - start
        self.log(f"compiled for {count} x {height}x{width}, {shape[1]} places for objects, in {spent:.1f} s")
        return result

    def _compile(self, images: Tensor, objects: PaddedObjects) -> dict[str, Tensor]:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self._run(self.model, images, objects)
        except TorchDynamoException as error:
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            raise UserError(
                f"--step-mode compile: torch.compile failed ({type(error).__name__}: {first}); "
                "--step-mode eager runs the same step without a compiler"
            ) from error


def compile_losses(model: nn.Module, log: Callable[[str], None], backend: str = "inductor") -> CompiledLoss:
    """Make ``model`` (not its DDP wrapper) compute its training losses through torch.compile from now on.

    The instance attribute hides the method of the class; parameters, ``state_dict`` and prediction are not affected.
    With DDP the gradients of a graph arrive all at once, so their reduction does not overlap the backward pass.
    """
    import torch._dynamo.config as settings

    torch._dynamo.reset()  # graphs of an earlier run of this process would count against the limit
    name = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"  # until torch 2.5
    setattr(settings, name, max(getattr(settings, name), MOST_GRAPHS))
    settings.optimize_ddp = False  # would split the graph at DDP's buckets, which custom autograd functions forbid
    compiled = CompiledLoss(model, log, backend)
    cast(Any, model).loss = compiled
    return compiled
