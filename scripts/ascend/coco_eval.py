#!/usr/bin/env python3
"""The twelve COCO numbers of a result file.

The same as ``fcos-train ascend coco-eval``; all flags: --help.
"""

from _step import run

if __name__ == "__main__":
    run("coco-eval")
