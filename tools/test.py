#!/usr/bin/env python3
"""``python tools/test.py CONFIG CHECKPOINT [--eval bbox --out FILE --cfg-options K=V ...]``: ``fcos-train eval``."""

import sys

from _verb import run

if __name__ == "__main__":
    run("eval", *sys.argv[1:])
