"""Writes models for ncnn: `.param`, `.bin`, with the names of blobs that AdelaiDet's programs expect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos_train.deploy.ncnn.graph import Graph
from fcos_train.deploy.ncnn.pnnx import converted
from fcos_train.deploy.ncnn.quantize import calibrated, halved, quantized
from fcos_train.deploy.ncnn.session import NcnnSession, Network
from fcos_train.deploy.parts.blobs import FLOAT16, FLOAT32, INT8
from fcos_train.deploy.parts.description import rule_of
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.sides import side_faults
from fcos_train.deploy.parts.target import Conversion, Target
from mmcv_overrides.errors import UserError

CALIBRATION = 40  # images


class Ncnn(Target):
    """``--target ncnn``. fp16 means weights that are stored as fp16: ncnn computes in fp32 on x86."""

    name, suffix, extra, end = "ncnn", ".param", "ncnn", "adelaidet"
    precisions = ("fp32", "fp16", "int8")
    packages = {"pnnx": "pnnx", "ncnn": "ncnn"}
    limits = {"fp32": FLOAT32, "fp16": FLOAT16, "int8": INT8}

    def early_faults(self, model: Any, shape: tuple[int, int]) -> list[str]:
        """Sides by which a map of the neck would not be enlarged by exactly 2."""
        return side_faults(shape, model)

    def convert(self, job: Conversion) -> None:
        """Convert with pnnx, name the blobs, and quantise."""
        images = job.calibration(CALIBRATION) if job.precision == "int8" else []
        shape, outputs = job.description["input"]["shape"], job.description["outputs"]
        graph, data = converted(job.onnx, shape)
        names = {f"out{index}": entry["name"] for index, entry in enumerate(outputs)}
        missing = [name for old, name in names.items() if old not in graph.blobs]
        if missing or graph.inputs != ["in0"]:
            raise UserError(
                f"pnnx wrote a graph with the inputs {graph.inputs} and without {missing or 'an input in0'}"
            )
        graph = graph.renamed({"in0": job.description["input"]["name"], **names})
        kept: list[str] = []
        if job.precision == "int8":
            _write(job.output, graph, data)
            rule = rule_of(job.description)
            network = Network(job.output, job.output.with_suffix(".bin"), keep=True)
            job.say(f"calibrating with {len(images)} images")
            ranges = calibrated(network, [rule.prepare(image) for image in images])
            graph, data, kept = quantized(graph, data, ranges)
        elif job.precision == "fp16":
            data, kept = halved(graph, data)
        job.say_float(kept)
        _write(job.output, graph, data)

    def open(self, path: Path, description: Mapping[str, Any]) -> Session:
        """A session in single precision."""
        return NcnnSession(path, description)

    def files(self, path: Path) -> list[Path]:
        """The graph and its weights."""
        return [path, path.with_suffix(".bin")]

    def next_steps(self, path: Path) -> list[str]:
        """How to look at detections."""
        return [f"try it: fcos-train ncnn-demo IMAGE {path} {path.with_suffix('.bin')} H W"]


def _write(path: Path, graph: Graph, data: bytes) -> None:
    path.write_text(graph.text())
    path.with_suffix(".bin").write_bytes(data)
