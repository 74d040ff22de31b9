"""Runs a verb of ``fcos-train`` for the scripts of this folder, which have the names and the flags of mmdet 2.x's."""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Not this folder: its test.py would hide the standard library's package of that name. The root, because the package
# may not be installed.
sys.path[:] = [str(HERE.parent), *(place for place in sys.path if Path(place).resolve() != HERE)]


def run(*words: str) -> None:
    """Run ``fcos-train WORDS ...`` in this process, as ``python -m fcos_train`` does."""
    import fcos_train  # noqa: F401  says so where this Python is too old

    sys.argv = ["fcos-train", *words]
    runpy.run_module("fcos_train", run_name="__main__", alter_sys=True)
