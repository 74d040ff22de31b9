#!/usr/bin/env python3
"""FSAF: images to .bin files.

The same as ``fcos-train ascend preprocess --model fsaf``; all flags: --help.
"""

from _step import run

if __name__ == "__main__":
    run("preprocess", "--model", "fsaf")
