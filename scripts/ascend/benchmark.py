#!/usr/bin/env python3
"""Runs a model and leaves the files of benchmark. The same as ``fcos-train ascend infer --layout benchmark``; all flags: --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fcos_train.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["ascend", "infer", "--layout", "benchmark", *sys.argv[1:]]))
