#!/usr/bin/env python3
"""Cascade R-CNN: results of the runner to text files.

The same as ``fcos-train ascend postprocess --model cascade``; all flags: --help.
"""

from _step import run

if __name__ == "__main__":
    run("postprocess", "--model", "cascade")
