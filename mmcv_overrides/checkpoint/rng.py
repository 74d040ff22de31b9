"""The states of all random generators of a process, in plain form."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def capture(device: torch.device | None = None) -> dict[str, Any]:
    """States of python's, numpy's and torch's global generators, and of ``device``'s if an accelerator."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "python": {"version": version, "state": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": name,
            "state": torch.from_numpy(keys.astype(np.int64)),
            "rest": (int(position), int(has_gauss), float(cached)),
        },
        "torch": torch.get_rng_state(),
    }
    if _accelerator(device) is not None:
        states["device"] = {"type": device.type, "state": _accelerator(device).get_rng_state(device).cpu()}
    return states


def restore(states: dict[str, Any], device: torch.device | None = None) -> None:
    """Put back what :func:`capture` gave (tensors may have been moved to a device meanwhile).

    The state of an accelerator is left alone when it came from another type of device.
    """
    python, numpy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["state"].cpu().tolist()), python["gauss"]))
    np.random.set_state((numpy["name"], numpy["state"].cpu().numpy().astype(np.uint32), *numpy["rest"]))
    torch.set_rng_state(states["torch"].cpu())
    saved = states.get("device")
    if saved and _accelerator(device) is not None and saved["type"] == device.type:
        _accelerator(device).set_rng_state(saved["state"].cpu(), device)


def _accelerator(device: torch.device | None) -> Any:
    """torch.cuda, torch.npu, ... or None for the CPU."""
    return None if device is None or device.type == "cpu" else getattr(torch, device.type, None)
