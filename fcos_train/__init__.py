"""FCOS-Train: train dense object detectors on NPU, GPU or CPU, then ship them."""

import sys

# Every command passes here first. The syntax of this file, and of the scripts that import it, is that of Python 3.6, so
# that an older Python says what it needs instead of failing on a line it cannot read.
if sys.version_info < (3, 11):  # noqa: UP036  pip alone reads requires-python
    sys.exit(
        f"error: FCOS-Train needs Python 3.11 or newer; this is Python {sys.version_info[0]}.{sys.version_info[1]} "
        f"({sys.executable})"
    )

__version__ = "0.1.0"
