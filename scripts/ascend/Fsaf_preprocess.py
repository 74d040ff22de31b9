#!/usr/bin/env python3
"""FSAF: images to .bin files. The same as ``fcos-train ascend preprocess --model fsaf``; all flags: --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fcos_train.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["ascend", "preprocess", "--model", "fsaf", *sys.argv[1:]]))
