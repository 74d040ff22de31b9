"""Who starts the ranks of a run: torchrun, Slurm, ``--devices``, or nobody."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from fcos_train.config.options import EvalOptions, TrainOptions

Launchable = TypeVar("Launchable", "TrainOptions", "EvalOptions")


def under_torchrun() -> bool:
    """Whether this process is one of several ranks that torchrun started."""
    told = all(os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return told and os.environ["WORLD_SIZE"] != "1"


def launched(options: Launchable) -> Launchable:
    """The options with their launcher decided; without ``--launcher`` the ranks of torchrun join each other."""
    if options.launcher is not None:
        return options
    return replace(options, launcher="pytorch" if under_torchrun() else "none")


def launcher_faults(options: TrainOptions | EvalOptions) -> list[str]:
    """A launcher that did not launch this process, or two of them."""
    faults = []
    if options.launcher == "pytorch" and "RANK" not in os.environ:
        faults.append("--launcher pytorch: start with torchrun, or give --devices N instead")
    if options.launcher == "slurm" and "SLURM_PROCID" not in os.environ:
        faults.append("--launcher slurm: start with srun (see scripts/slurm_train.sh); SLURM_PROCID is not set")
    if options.devices is not None and options.devices > 1:
        if options.launcher is not None or under_torchrun():
            faults.append("--devices starts the ranks itself: leave out torchrun and --launcher")
        if ":" in options.device:
            faults.append(f"--device {options.device} is one card, not {options.devices}: leave out its number")
    return faults
