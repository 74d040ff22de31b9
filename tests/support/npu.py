"""Shared by the two simulated NPUs. Does not import torch, because both are set up while torch is imported."""

import importlib.util
import os
from pathlib import Path

WAITING = {  # operations for which the host waits for the device
    "item": lambda t: t.sum().item(),
    "nonzero": lambda t: t.nonzero(),
    "mask": lambda t: t[t > 0],
    "assignment by mask": lambda t: t.__setitem__(t > 0, 0.0),
    "to the host": lambda t: t.cpu(),
}


def load_extension(variable: str):
    """Load the extension whose path is in this environment variable."""
    path = Path(os.environ[variable])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hccl_over_gloo(extension):
    """A factory of process groups for torch, named ``hccl`` and backed by gloo."""

    def make(options, _):
        from torch.distributed import ProcessGroupGloo

        return extension.make_hccl(
            ProcessGroupGloo(options.store, options.group_rank, options.group_size, options.timeout)
        )

    return make
