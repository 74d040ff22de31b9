"""Where a training is, in images: a run that is resumed with another global batch continues at the same image.

``meta["position"]`` of a checkpoint holds images, so that neither the number of ranks nor the batch size matters:
``{"images": of the finished part of the epoch, "epoch_images": of a whole one, "epoch_steps", "global_batch"}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop, Runner

KEY = "position"


@dataclass(frozen=True)
class Epochs:
    """How the epochs of a run are divided into steps.

    Attributes:
        length: steps of an epoch. images: of all ranks in an epoch. batch: images of all ranks in a step.
    """

    length: int
    images: int
    batch: int

    @classmethod
    def of(cls, runner: Runner) -> Epochs | None:
        """Of a runner that trains by epochs on a loader that tells its batch size; else None."""
        loop = runner._train_loop
        if not isinstance(loop, EpochBasedTrainLoop):
            return None
        loader = loop.dataloader
        size = getattr(loader.batch_sampler, "batch_size", None)
        try:
            samples = len(loader.dataset)
        except TypeError:
            return None
        if not isinstance(size, int) or size < 1 or not samples:
            return None
        return cls(len(loader), samples, size * get_world_size())

    def position(self, epoch: int, iteration: int) -> dict[str, int]:
        """``meta["position"]`` after ``iteration`` steps, of which ``epoch`` whole epochs or one more are finished."""
        done = min(max(iteration - epoch * self.length, 0) * self.batch, self.images)
        return {
            "images": done,
            "epoch_images": self.images,
            "epoch_steps": self.length,
            "global_batch": self.batch,
        }


@dataclass(frozen=True)
class Move:
    """A resume with another division into steps.

    Attributes:
        epoch, iteration: where the run continues. before: iterations in the checkpoint.
        batch: images in a step, now. old_batch: at the checkpoint; None if it is unknown.
        ratio: steps of an epoch, now to then.
    """

    epoch: int
    iteration: int
    before: int
    batch: int
    old_batch: int | None
    ratio: Fraction

    def line(self) -> str:
        """For the log."""
        then = f"{self.old_batch}" if self.old_batch else "another number"
        return (
            f"resumed with {self.batch} images in a step, {then} at the checkpoint: iteration {self.before} there is "
            f"{self.iteration} here, in epoch {self.epoch + 1}"
        )


def move(meta: dict[str, Any], epochs: Epochs) -> Move | None:
    """Where a checkpoint's training continues if an epoch now has other steps; None if it has the same ones.

    Images of an incomplete step are seen again, none is left out.

    Args:
        meta: of the checkpoint. epochs: of this run.
    """
    epoch, iteration, position = meta["epoch"], meta["iter"], meta.get(KEY)
    if isinstance(position, dict) and _sound(position):
        batch, images, length = (position[key] for key in ("global_batch", "epoch_images", "epoch_steps"))
        done = position["images"]
        step = min(done * epochs.images // images // epochs.batch, epochs.length)
        if done == images:
            step = epochs.length
    else:  # older checkpoints tell the length of their epochs at the end of one
        length, rest = divmod(iteration, epoch) if epoch else (0, 1)
        if rest or not length or length == epochs.length:
            return None
        batch, step = None, 0
    if length == epochs.length:
        return None
    return Move(epoch, epoch * epochs.length + step, iteration, epochs.batch, batch, Fraction(epochs.length, length))


def _sound(position: dict) -> bool:
    keys = ("images", "epoch_images", "epoch_steps", "global_batch")
    if not all(isinstance(position.get(key), int) for key in keys):
        return False
    return 0 <= position["images"] <= position["epoch_images"] and all(position[key] > 0 for key in keys[1:])


def move_schedulers(states: Any, built: Any, ratio: Fraction) -> None:
    """Put schedulers that count the steps of epochs where the moved run is, in place.

    Those are the ones whose end has moved with the length of an epoch (``convert_to_iter_based``). The others count
    epochs, or steps that the user gave.

    Args:
        states: ``param_schedulers`` of a checkpoint. built: of this run.
    """
    for state, scheduler in _paired(states, built):
        end = state.get("end")
        if isinstance(end, int) and Fraction(getattr(scheduler, "end", end)) == end * ratio and not scheduler.by_epoch:
            for name in ("last_step", "_global_step"):
                if isinstance(state.get(name), int):
                    state[name] = round(state[name] * ratio)
            state["end"] = scheduler.end


def rescale_rates(checkpoint: dict[str, Any], runner: Runner) -> float | None:
    """Give the states of optimizer and schedulers the learning rate of this run, in place.

    Returns:
        the factor; None if the learning rate is that of the checkpoint, or unknown.
    """
    groups = (checkpoint.get("optimizer") or {}).get("param_groups") or []
    optimizer = getattr(runner.optim_wrapper, "optimizer", None)
    then = max((group["initial_lr"] for group in groups if "initial_lr" in group), default=0)
    now = max((group.get("initial_lr", 0) for group in getattr(optimizer, "param_groups", [])), default=0)
    if not then or not now or now == then:
        return None
    factor = now / then
    for group in groups:
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] *= factor
    for state, scheduler in _paired(checkpoint.get("param_schedulers"), runner.param_schedulers):
        if getattr(scheduler, "param_name", "lr") == "lr":
            for name in ("base_values", "_last_value"):
                if isinstance(state.get(name), list):
                    state[name] = [value * factor for value in state[name]]
    return factor


def _paired(states: Any, built: Any) -> Iterator[tuple[dict, Any]]:
    """(state, scheduler) of lists of the same length."""
    if isinstance(states, list) and isinstance(built, list) and len(states) == len(built):
        yield from (
            (s, b) for s, b in zip(states, built, strict=True) if isinstance(s, dict) and hasattr(b, "by_epoch")
        )
