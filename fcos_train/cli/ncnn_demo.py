"""``fcos-train ncnn-demo``: the classic ncnn program for FCOS, with its words and its lines."""

from __future__ import annotations

import sys

from fcos_train.deploy.ncnn.options import NcnnDemoOptions


def run(options: NcnnDemoOptions) -> int:
    """Detect objects in an image with an FCOS network in ncnn and print one line per box.

    Coordinates are pixels of the network input, to which the image is stretched, unless --original is given. Lines
    about the run go to stderr. Sides must be multiples of 32 for networks with FPN.
    """
    from fcos_train.deploy.ncnn.demo import demo

    demo(options, print, lambda line: print(line, file=sys.stderr))
    return 0
