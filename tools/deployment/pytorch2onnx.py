#!/usr/bin/env python3
"""The place that mmdet 2.9 and newer have for ``tools/pytorch2onnx.py``; the same."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "pytorch2onnx.py"), run_name="__main__")
