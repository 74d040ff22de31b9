"""Runs pnnx, which converts ONNX files to ncnn's format."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fcos_train.deploy.ncnn.graph import Graph, read_graph
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable_lines


def executable() -> str:
    """The program: of the installed package, else on the PATH.

    Raises:
        UserError: there is none.
    """
    spec = importlib.util.find_spec("pnnx")
    name = "pnnx.exe" if sys.platform == "win32" else "pnnx"
    places = [Path(folder) / name for folder in (spec.submodule_search_locations or ())] if spec else []
    found = next((str(place) for place in places if place.is_file()), None) or shutil.which("pnnx")
    if found is None:
        raise UserError("--target ncnn needs the program pnnx: pip install pnnx")
    return found


def converted(onnx: Path, shape: Sequence[int]) -> tuple[Graph, bytes]:
    """Convert an ONNX file.

    Args:
        shape: of the input, (1, 3, H, W).

    Returns:
        the graph, with inputs `in0`.. and outputs `out0`.. in the order of the ONNX file, and its weights in float32.

    Raises:
        UserError: pnnx failed (with its last lines), or kept operators that ncnn does not have.
    """
    import ncnn

    with tempfile.TemporaryDirectory(prefix="pnnx-") as scratch:  # for the files that pnnx writes beside its result
        folder = Path(scratch)
        shutil.copyfile(onnx, folder / "model.onnx")
        sides = ",".join(map(str, shape))
        done = subprocess.run(
            [executable(), "model.onnx", f"inputshape=[{sides}]", "fp16=0"],  # 1 is its default
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
        if done.returncode or not param.is_file() or not weights.is_file():
            raise UserError(f"pnnx failed (exit status {done.returncode}): {_last_lines(done.stdout)}")
        graph = read_graph(param)
        foreign = sorted(kind for kind in {layer.kind for layer in graph.layers} if ncnn.layer_to_index(kind) < 0)
        if foreign:
            raise UserError(f"ncnn has no layer for {', '.join(foreign)}: the model cannot be converted to it")
        return graph, weights.read_bytes()


def _last_lines(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return printable_lines("; ".join(lines[-3:]) or "it said nothing")
