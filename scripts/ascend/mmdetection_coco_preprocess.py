#!/usr/bin/env python3
"""Cascade R-CNN: images to .bin files.

The same as ``fcos-train ascend preprocess --model cascade``; all flags: --help.
"""

from _step import run

if __name__ == "__main__":
    run("preprocess", "--model", "cascade")
