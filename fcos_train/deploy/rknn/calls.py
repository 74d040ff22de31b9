"""Drives rknn-toolkit2. Run by path in the toolkit's environment, where this project is not installed.

The simulator computes what the toolkit has built in the same process; it cannot read a `.rknn` file. What it builds
from is therefore kept beside the `.rknn` file: the ONNX file for fp16, and for int8 the three files of the toolkit's
two-step quantisation, which hold the measured ranges.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

import numpy as np

KEPT = (".model", ".data", ".quantization.cfg")
Answer = tuple[dict[str, Any], list[np.ndarray]]
_simulators: dict[str, Any] = {}


def _done(status: int, what: str) -> None:
    if status != 0:
        raise RuntimeError(what + " failed")


def _toolkit() -> Any:
    from rknn.api import RKNN

    return RKNN(verbose=False)


def _configured(onnx: str, chip: str, mean: list[float], std: list[float]) -> Any:
    """The toolkit with an ONNX file; the compiled model normalises pixels itself."""
    toolkit = _toolkit()
    _done(toolkit.config(target_platform=chip, mean_values=[mean], std_values=[std]), "the configuration")
    _done(toolkit.load_onnx(model=onnx), "reading " + onnx)
    return toolkit


def _built(base: str, chip: str, mean: list[float], std: list[float], int8: bool) -> Any:
    """The compiled model: from the kept files for int8, else from the ONNX file.

    Args:
        base: path of these files without their suffixes.
    """
    if int8:
        toolkit = _toolkit()
        _done(toolkit.hybrid_quantization_step2(*(base + suffix for suffix in KEPT)), "compiling")
        return toolkit
    toolkit = _configured(base + ".onnx", chip, mean, std)
    _done(toolkit.build(do_quantization=False), "compiling")
    return toolkit


def _measure(pixels: list[np.ndarray], base: str, onnx: str, chip: str, mean: list[float], std: list[float]) -> None:
    """Measure the ranges of activations, and move the files that hold them to ``base + suffix``."""
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, f"{index}.npy") for index in range(len(pixels))]
        for name, image in zip(names, pixels, strict=True):
            np.save(name, image)
        dataset = os.path.join(folder, "dataset.txt")
        with open(dataset, "w") as file:
            file.write("\n".join(names))
        shutil.copy(onnx, os.path.join(folder, "kept.onnx"))
        os.chdir(folder)  # the toolkit writes its files to the current folder
        toolkit = _configured("kept.onnx", chip, mean, std)
        _done(toolkit.hybrid_quantization_step1(dataset=dataset), "measuring the ranges of activations")
        toolkit.release()
        for suffix in KEPT:
            shutil.move("kept" + suffix, base + suffix)
        os.chdir("/")


def compile_model(
    arrays: list[np.ndarray], onnx: str, base: str, chip: str, mean: list[float], std: list[float], int8: bool
) -> Answer:
    """Write the `.rknn` file to ``base``, and beside it the files that it is built from.

    Args:
        arrays: for int8 the pixels f32 [1, 3, H, W] of each calibration image.
    """
    if int8:
        _measure(arrays, base, onnx, chip, mean, std)
    else:
        shutil.copy(onnx, base + ".onnx")
    toolkit = _built(base, chip, mean, std, int8)
    _done(toolkit.export_rknn(base), "writing the .rknn file")
    toolkit.release()
    return {}, []


def simulate(arrays: list[np.ndarray], base: str, chip: str, mean: list[float], std: list[float], int8: bool) -> Answer:
    """Build the model again, for calls of :func:`run`."""
    toolkit = _built(base, chip, mean, std, int8)
    _done(toolkit.init_runtime(), "starting the simulator")
    _simulators["one"] = toolkit
    return {}, []


def run(arrays: list[np.ndarray]) -> Answer:
    """The outputs for the pixels f32 [1, 3, H, W] in ``arrays[0]``."""
    outputs = _simulators["one"].inference(inputs=[arrays[0]], data_format=["nchw"])
    if outputs is None:
        raise RuntimeError("the simulator gave no outputs")
    return {}, outputs


CALLS = {"compile": compile_model, "simulate": simulate, "run": run}
