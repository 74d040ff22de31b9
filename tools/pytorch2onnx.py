#!/usr/bin/env python3
"""``python tools/pytorch2onnx.py CONFIG CHECKPOINT [--output-file FILE --shape H W ...]``: ``fcos-train export``.

As mmdet's script it writes tmp.onnx with opset 11 (or what the model needs) and the outputs ``dets`` and ``labels``.
For atc add ``--end ascend``.
"""

import sys

from _verb import run

if __name__ == "__main__":
    from pthtar2onx import arguments

    run("export", *arguments(sys.argv[1:], {"--output-file": ["tmp.onnx"], "--usual-opset": ["11"]}))
