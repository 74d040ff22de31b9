"""``--step-mode compile``: forward pass and losses of the fixed-shape step as one graph of torch.compile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fcos_train.geometry.padded import PaddedObjects
from mmcv_overrides.errors import UserError

# Canvases (two by default) x rungs of objects (8, 16, ... 512) x rungs of ignored regions, with room to spare.
MOST_GRAPHS = 64


def losses(model: nn.Module, images: Tensor, objects: PaddedObjects) -> dict[str, Tensor]:
    """What is compiled: normalised images [B, 3, H, W] -> the detector's losses, 0-d f32."""
    return type(model).loss(model, images, objects)


class CompiledLoss:
    """A detector's ``loss`` through torch.compile; one graph for each shape of images and of padded objects.

    Never falls back to uncompiled code: what does not fit into one graph is an error.

    Args:
        model: a detector; put the instance into its ``loss`` with :func:`compile_losses`.
        log: gets a line for every graph.
        backend: of torch.compile.
    """

    def __init__(self, model: nn.Module, log: Callable[[str], None], backend: str = "inductor"):
        self.model, self.log = model, log
        self.seen: set[tuple] = set()
        self._run = torch.compile(losses, fullgraph=True, dynamic=False, backend=backend)

    def __call__(self, images: Tensor, objects: PaddedObjects) -> dict[str, Tensor]:
        """
        Raises:
            UserError: batches of too many shapes, or code that torch.compile cannot take.
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
                f"--step-mode compile: more than {MOST_GRAPHS} shapes of batches; fix fewer canvases or use eager"
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
                f"--step-mode compile: torch.compile failed ({type(error).__name__}: {first}); --step-mode eager runs the same step without a compiler"
            ) from error


def compile_losses(model: nn.Module, log: Callable[[str], None], backend: str = "inductor") -> CompiledLoss:
    """Let ``model`` (not its DDP wrapper) compute its training losses through torch.compile from now on.

    An attribute of the instance stands before the method: parameters, ``state_dict`` and prediction know nothing of it.
    With DDP the gradients of a graph come all at once, so their reduction does not overlap the backward pass.
    """
    import torch._dynamo.config as settings

    name = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"  # until torch 2.5
    setattr(settings, name, max(getattr(settings, name), MOST_GRAPHS))
    settings.optimize_ddp = False  # would cut the one graph at DDP's buckets, which custom autograd functions forbid
    model.loss = CompiledLoss(model, log, backend)
    return model.loss
