"""FCOS-Train: train dense object detectors on NPU, GPU or CPU, then ship them."""

import sys

# Every command passes here first. The syntax of this file, and of the scripts that import it, is that of Python 3.5, so
# that an older Python says what it needs instead of failing on a line it cannot read.
if sys.version_info < (3, 11):
    sys.exit(
        "error: FCOS-Train needs Python 3.11 or newer; this is Python %d.%d (%s)"
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )

__version__ = "0.1.0"
