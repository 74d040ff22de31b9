"""Whether two checkpoints are of the same state of a training, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmcv_overrides.checkpoint import load

# What differs between two runs with the same losses: clocks, names, the time of day.
CLOCKED = ("time", "data_time", "eta", "fps", "fps_window", "images_per_s", "memory")
APART = (
    "experiment_name",
    "time",
    "run",
    "cfg",
    "last_ckpt",
    "best_ckpt",
    "keep_ckpt_ids",
    "loop_stage",
    "epoch",
    "iter",
)


def state_of(path: Path) -> dict[str, Any]:
    """What a training goes on from, without clocks and names."""
    found = load(path)
    hub = found["message_hub"]
    # The history of validations is in a checkpoint only if that was saved after them.
    scalars = {k: v for k, v in hub["log_scalars"].items() if k.startswith("train/")}
    scalars = {k: v for k, v in scalars.items() if k.split("/")[-1] not in CLOCKED}
    info = {k: v for k, v in hub["runtime_info"].items() if k not in (*CLOCKED, *APART)}
    parts = {k: found.get(k) for k in ("state_dict", "optimizer", "param_schedulers", "rng")}
    parts["meta"] = {k: v for k, v in found["meta"].items() if k in ("epoch", "iter") or k not in APART}
    return parts | {"scalars": {k: v.data for k, v in scalars.items()}, "info": info}


def difference(one: Any, other: Any, where: str = "") -> str:
    """The first place where two trees differ; empty if they are equal."""
    if isinstance(one, torch.Tensor) or type(one).__module__ == "numpy":
        one, other = torch.as_tensor(one), torch.as_tensor(other)
        same = one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
        return "" if same else where
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}"
        return next((d for k in one if (d := difference(one[k], other[k], f"{where}/{k}"))), "")
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return next((d for i, (a, b) in enumerate(zip(one, other)) if (d := difference(a, b, f"{where}/{i}"))), "")
    return "" if one == other else f"{where}: {one} and {other}"


def differs(one: Path, other: Path) -> str:
    """The first difference of the states in two files; empty if they are equal."""
    return difference(state_of(one), state_of(other))
