#!/usr/bin/env python3
"""FCOS: results of the runner to text files and mAP.

The same as ``fcos-train ascend postprocess --model fcos``; all flags: --help.
"""

from _step import run

if __name__ == "__main__":
    run("postprocess", "--model", "fcos")
