#!/usr/bin/env python3
"""Runs a model and leaves the files of ais_infer.

The same as ``fcos-train ascend infer --layout ais``; all flags: --help.
"""

from _step import run

if __name__ == "__main__":
    run("infer", "--layout", "ais")
