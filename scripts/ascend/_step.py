"""Runs a step of ``fcos-train ascend`` for the scripts of this folder, which have the names of the vendor's tools."""

import sys
from pathlib import Path

# Also where the package is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fcos_train.cli.main import main  # noqa: E402


def run(*words: str) -> None:
    """Run ``fcos-train ascend WORDS ...`` with the arguments of this process behind them, and exit."""
    sys.exit(main(["ascend", *words, *sys.argv[1:]]))
