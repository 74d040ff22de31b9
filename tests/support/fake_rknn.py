"""A stand-in for the environment of rknn-toolkit2: the calls that are made of it, computed by onnxruntime in float.

It takes and writes the same files in the same places, so that everything around the toolkit can be tested.
"""

from __future__ import annotations

import sys
from pathlib import Path

TOOLKIT = """
import json, os, shutil
import numpy as np

class RKNN:
    def __init__(self, verbose=False):
        print("I rknn-toolkit2 version: stand-in")
    def config(self, target_platform, mean_values, std_values):
        if target_platform == "rk2118":
            print("E config: rk2118 is refused by the stand-in")
            return -1
        self.norm = [mean_values[0], std_values[0]]
        return 0
    def load_onnx(self, model):
        self.model = model
        return 0 if os.path.isfile(model) else -1
    def build(self, do_quantization):
        assert not do_quantization
        return 0
    def hybrid_quantization_step1(self, dataset):
        images = [np.load(line) for line in open(dataset).read().split()]
        base = os.path.splitext(os.path.basename(self.model))[0]
        shutil.copy(self.model, base + ".model")
        open(base + ".data", "w").write(json.dumps(self.norm))
        open(base + ".quantization.cfg", "w").write(json.dumps([float(min(i.min() for i in images)), len(images)]))
        return 0
    def hybrid_quantization_step2(self, model_input, data_input, model_quantization_cfg):
        self.model, self.norm = model_input, json.load(open(data_input))
        return 0
    def export_rknn(self, path):
        shutil.copy(self.model, path)
        return 0
    def init_runtime(self):
        import onnxruntime
        self.session = onnxruntime.InferenceSession(self.model, providers=["CPUExecutionProvider"])
        return 0
    def inference(self, inputs, data_format):
        assert data_format == ["nchw"]
        mean, std = (np.asarray(v, np.float32).reshape(1, 3, 1, 1) for v in self.norm)
        return self.session.run(None, {self.session.get_inputs()[0].name: (inputs[0] - mean) / std})
    def release(self):
        pass
"""
# Starts this Python with the stand-in on its path; the worker gives `-I HOST SCRIPT`.
PYTHON = """#!/bin/sh
shift
exec {python} -I -c 'import runpy, sys
sys.path.insert(0, "{site}")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")' "$@"
"""


def make_toolchain(folder: Path) -> Path:
    """Write the environment; returns its folder."""
    for name in ("bin", "site/rknn"):
        (folder / name).mkdir(parents=True)
    (folder / "site" / "rknn" / "__init__.py").touch()
    (folder / "site" / "rknn" / "api.py").write_text(TOOLKIT)
    python = folder / "bin" / "python"
    python.write_text(PYTHON.format(python=sys.executable, site=folder / "site"))
    python.chmod(0o755)
    return folder
