"""Random states: of one process in plain form, and of all ranks over the course of a run."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.runner import Runner


def capture(device: torch.device | None = None) -> dict[str, Any]:
    """States of the global generators of Python, NumPy and torch, and of ``device`` if it is an accelerator."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": {"version": version, "state": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": name,
            "state": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "rest": (int(position), int(has_gauss), float(cached)),
        },
        "torch": torch.get_rng_state(),
    }
    if device is not None and (accelerator := _accelerator(device)) is not None:
        states["device"] = {"type": device.type, "state": accelerator.get_rng_state(device).cpu()}
    return states


def restore(states: dict[str, Any], device: torch.device | None = None) -> None:
    """Put back what :func:`capture` returned; its tensors may have been moved to a device meanwhile.

    The state of an accelerator is ignored if it comes from another type of device.
    """
    python, numpy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["state"].cpu().tolist()), python["gauss"]))
    np.random.set_state((numpy["name"], numpy["state"].cpu().numpy().astype(np.uint32), *numpy["rest"]))
    torch.set_rng_state(states["torch"].cpu())
    saved = states.get("device")
    if saved and device is not None and saved["type"] == device.type:
        accelerator = _accelerator(device)
        if accelerator is not None:
            accelerator.set_rng_state(saved["state"].cpu(), device)


def _accelerator(device: torch.device) -> Any:
    """``torch.cuda``, ``torch.npu``, ...; None for the CPU."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)


class RandomStates:
    """The random states of a run: stored with checkpoints, put back on resume, unchanged by validation.

    A run with validation and one without, and a run resumed before or after one, thus draw the same numbers.
    """

    def __init__(self) -> None:
        self._gathered: list[dict] | None = None
        self._before_val: dict | None = None
        self._loader_generator: torch.Generator | None = None

    @property
    def in_validation(self) -> bool:
        """Whether a validation is running."""
        return self._before_val is not None

    def resume(self, runner: Runner, states: list[dict] | None) -> None:
        """Put back the states of a checkpoint, one for each rank; warn if that is not possible.

        Call it as late as a hook can before the loop opens the data loader: building and loading the model has drawn
        from the generators by then, the first batch has not.
        """
        if not states:
            runner.logger.warning("the checkpoint has no random states: the resumed run draws other random numbers")
        elif len(states) != get_world_size():
            runner.logger.warning(
                f"the checkpoint has random states of {len(states)} ranks, not of {get_world_size()}: not restored"
            )
        else:
            restore(states[get_rank()], _device(runner))

    def separate_loader(self, runner: Runner) -> None:
        """Let the data loader draw the seed of its workers from a generator of its own.

        Opening a loader draws once from the global generator. A run that is resumed in mid-epoch opens a loader once
        more than the uninterrupted run and would draw other numbers from then on.
        """
        loader = runner.train_dataloader
        if getattr(loader, "generator", self) is None:
            loader.generator = self._loader_generator = torch.Generator()

    def begin_epoch(self, runner: Runner) -> None:
        """Seed the loader's generator from seed, epoch and rank."""
        if self._loader_generator is not None:
            seed = (runner.seed or 0) * 1000003 + runner.epoch * 1009 + get_rank()
            self._loader_generator.manual_seed(seed % 2**63)

    def begin_validation(self, runner: Runner) -> None:
        """Remember the states of this rank."""
        self._before_val = capture(_device(runner))

    def end_validation(self, runner: Runner) -> None:
        """Put back the states from before the validation."""
        if self._before_val is not None:
            restore(self._before_val, _device(runner))
        self._before_val = None

    def gather(self, runner: Runner) -> None:
        """Collect the states of all ranks; on all ranks, because ``runner.save_checkpoint`` runs on rank 0 alone."""
        self._gathered = all_gather_object(self._before_val or capture(_device(runner)))

    def take(self, runner: Runner) -> list[dict] | None:
        """The gathered states, once; those of a single process are gathered now if nobody has done it."""
        if self._gathered is None and get_world_size() == 1:  # a checkpoint that is saved by hand
            self.gather(runner)
        gathered, self._gathered = self._gathered, None
        return gathered

    def discard(self) -> None:
        """Forget gathered states that were not taken."""
        self._gathered = None


def _device(runner: Runner) -> torch.device | None:
    parameter = next(runner.model.parameters(), None)
    return None if parameter is None else parameter.device
