#!/usr/bin/env python3
"""Runs a model and leaves the files of benchmark.

The same as ``fcos-train ascend infer --layout benchmark``; all flags: --help.
"""

from _step import run

if __name__ == "__main__":
    run("infer", "--layout", "benchmark")
