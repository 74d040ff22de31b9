#!/usr/bin/env python3
"""Draws the detections of a checkpoint on an image, a folder or a video: ``python demo.py CHECKPOINT [--img FILE]``.

The same as ``fcos-train demo``; all options: ``python demo.py --help``.
"""

import sys

from fcos_train.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
