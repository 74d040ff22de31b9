"""What to do when memory runs out: one message with the sizes at hand and the cheapest changes.

Three kinds of memory can run out: that of the accelerator, that of this process (its limits, or the machine's), and
that of loader processes, which the system kills.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from fcos_train.config.load import walk
from mmcv_overrides import device
from mmcv_overrides.errors import UserError

# torch and torch_npu on an accelerator; torch's CPU allocator; OpenCV; the system that kills a loader process
SAYS = re.compile(
    r"out of memory|DefaultCPUAllocator|not enough memory|can't allocate memory|Insufficient memory|Failed to allocate"
    r"|DataLoader worker \(pid.*\) (is killed by signal: Killed|exited unexpectedly)|Unable to allocate"
    r"|insufficient shared memory"
)
CHANGES = 3
SIDE = 0.7  # of both sides: half the area


class LastBatchHook(Hook):
    """Remembers the batch that is being computed, and its step, for the message."""

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.batch: Any = None
        self.where = "before the first batch"

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """A step of training."""
        self.batch, self.where = data_batch, f"in step {runner.iter + 1} of the training"

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """A batch of validation."""
        self.batch, self.where = data_batch, f"in batch {batch_idx + 1} of the validation"

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """A batch of an evaluation."""
        self.batch, self.where = data_batch, f"in batch {batch_idx + 1} of the evaluation"


@contextmanager
def memory_explained(runner: Runner) -> Iterator[None]:
    """Turn an exception for lack of memory into a user error.

    Raises:
        UserError: memory has run out; the message names the batch and the cheapest changes.
    """
    last = LastBatchHook()
    runner.register_hook(last)
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        accelerated = is_accelerators(error)
        place = device.current().name if accelerated else "the CPU (memory of the machine, or a limit on it)"
        text = f"out of memory on {place} {last.where}: {sizes(last.batch)}. {_said(error)}\n"
        changes = cheapest(runner, training=runner._train_loop is not None, accelerated=accelerated)
        raise UserError(text + "The cheapest changes: " + "; ".join(changes)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has run out."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or SAYS.search(str(error)) is not None


def is_accelerators(error: BaseException) -> bool:
    """Whether it was the memory of an accelerator."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return re.search(r"\b(CUDA|NPU) out of memory", str(error)) is not None


def sizes(batch: Any) -> str:
    """Number and size of the images of a batch, and the objects in them."""
    if not isinstance(batch, dict) or "inputs" not in batch:
        return "no batch was complete yet"
    inputs, samples = batch["inputs"], batch.get("data_samples")
    shapes = {tuple(image.shape[-2:]) for image in inputs if hasattr(image, "shape")}
    count = len(inputs)
    largest = max(shapes, key=lambda shape: shape[0] * shape[1], default=(0, 0))
    text = f"{count} image{'s' if count != 1 else ''} of {'up to ' if len(shapes) > 1 else ''}"
    text += f"{largest[1]} x {largest[0]} px (width x height)"
    objects = _objects(samples)
    return f"{text}, {sum(objects)} objects in all and {max(objects)} in one image" if objects else text


def _objects(samples: Any) -> Sequence[int]:
    """Objects of each image; empty where that is not known. Read from the loader's batch, which is on the CPU."""
    if isinstance(getattr(samples, "count", None), torch.Tensor):
        return [int(count) for count in samples.count.tolist()]
    if not isinstance(samples, (list, tuple)):
        return []
    return [len(sample.gt_instances) for sample in samples if "gt_instances" in sample]


def cheapest(runner: Runner, training: bool, accelerated: bool) -> list[str]:
    """The three changes that cost least and apply to this run, the cheapest first."""
    cfg = runner.cfg
    loader = cfg.get("train_dataloader" if training else "test_dataloader") or {}
    batch = loader.get("batch_size", 1)
    level = (cfg.get("optim_wrapper") or {}).get("opt_level", "O0")
    backbone = cfg.model.get("backbone") or {}
    found = []
    if batch > 1:
        follows = (
            " (the learning rate follows; --cfg-options optim_wrapper.accumulative_counts=2 keeps the global batch)"
        )
        found.append(f"--batch-size {batch // 2}{follows if training else ''}")
    if not accelerated and loader.get("num_workers", 0) > 0:
        found.append("--workers 0 (loader processes hold batches of their own)")
    if training and accelerated and level == "O0":
        found.append("--opt-level O1 (activations of half the size)")
    if training and str(backbone.get("type", "")).startswith("Res") and not backbone.get("with_cp"):
        found.append("--cfg-options model.backbone.with_cp=True (activations are computed again: a third slower)")
    found.append(smaller_images(loader))
    found.append("a smaller backbone, for example --cfg-options model.backbone.depth=18")
    return found[:CHANGES]


def smaller_images(loader: Any) -> str:
    """The sizes of the loader's pipeline, with half the area."""
    scales = [step["scale"] for step in walk(loader) if step.get("type") == "Resize" and "scale" in step]
    if not scales or not all(isinstance(side, int) for side in scales[0]):
        return "smaller images (the scale of Resize in the pipeline)"
    halved = tuple(round(side * SIDE) for side in scales[0])
    return f"images of half the area (scale={halved} instead of {tuple(scales[0])} of Resize in the pipeline)"


def _said(error: BaseException) -> str:
    """What the allocator says of sizes, in one line."""
    text = " ".join(str(error).split())
    asked = re.search(
        r"[Tt]ried to allocate ([\d.]+ ?\w+)|[Ff]ailed to allocate (\d+ bytes)|Unable to allocate ([\d.]+ \w+)", text
    )
    if asked:
        return f"{next(filter(None, asked.groups()))} more were asked for"
    return text[:160] or "a process was refused memory"
