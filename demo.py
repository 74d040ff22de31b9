#!/usr/bin/env python3
"""Draws what a checkpoint finds in an image, a folder or a video: ``python demo.py CHECKPOINT [--img FILE]``.

The same as ``fcos-train demo``; all options: ``python demo.py --help``.
"""

import sys

from fcos_train.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
