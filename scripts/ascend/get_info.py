#!/usr/bin/env python3
"""Lists .bin files or images with their sizes.

The same as ``fcos-train ascend info``; all flags: --help.
"""

from _step import run

if __name__ == "__main__":
    run("info")
