"""FCOS-Train: train dense object detectors on NPU, GPU or CPU, then ship them."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fcos_train.api import Detector, check_data, evaluate, export, train

# Every command passes here first. The syntax of this file, and of the scripts that import it, is that of Python 3.6, so
# that an older Python says what it needs instead of failing on a line it cannot read.
if sys.version_info < (3, 11):  # noqa: UP036  pip alone reads requires-python
    sys.exit(
        f"error: FCOS-Train needs Python 3.11 or newer; this is Python {sys.version_info[0]}.{sys.version_info[1]} "
        f"({sys.executable})"
    )

__version__ = "0.1.0"

__all__ = ["Detector", "__version__", "check_data", "evaluate", "export", "train"]


def __getattr__(name):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """The names of :mod:`fcos_train.api`, imported (with torch) when one of them is first used."""
    if name not in __all__:
        raise AttributeError("module 'fcos_train' has no attribute " + repr(name))
    import importlib
    import os

    # As on the command line: an installed torch_npu is imported when a device is chosen, not with torch.
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    return getattr(importlib.import_module("fcos_train.api"), name)
