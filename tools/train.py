#!/usr/bin/env python3
"""``python tools/train.py CONFIG [--work-dir DIR --resume-from CKPT --cfg-options K=V ...]``: ``fcos-train train``."""

import sys

from _verb import run

if __name__ == "__main__":
    run("train", *sys.argv[1:])
