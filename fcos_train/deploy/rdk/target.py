"""Writes models for the boards RDK X5 and RDK X3, and runs their quantised form on a PC."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from fcos_train.deploy.parts.blobs import INT8
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.target import Conversion, Target
from fcos_train.deploy.rdk.board.runtimes import Emulated
from fcos_train.deploy.rdk.mapper_config import X3, X5, Board, mapper_config, write_calibration, write_config
from fcos_train.deploy.rdk.mapper_log import MapperReport, predicted_in, read_mapper_log
from fcos_train.deploy.rdk.mapper_session import QUANTISED, BoardSession, QuantisedRuntime
from fcos_train.deploy.rdk.own_weights import give_own_weights
from fcos_train.deploy.rdk.table import as_record, report_lines
from fcos_train.deploy.rdk.toolchain import SETUP, Toolchain, find_toolchain, require_toolchain
from mmcv_overrides.errors import UserError

CALIBRATION = 40  # images; the vendor advises 20 to 100
OPSETS = (10, 11)  # that the compiler reads
IR_VERSION = 7  # the newest that the compiler's own onnx and the vendor's documents name
USUAL_LEVEL = "O3"


class Rdk(Target):
    """What both boards have in common. Where the compiler is not installed, its YAML is the main file."""

    end, opset = "rdk", 11
    precisions = ("int8",)
    limits = {"int8": INT8}
    board: Board

    def require(self) -> None:
        """Refuse a toolchain variable that names a folder without the compiler."""
        find_toolchain()

    def faults(self, description: Mapping[str, Any], model: Any) -> list[str]:
        """Heads that the decoder of the boards does not read, opsets and sizes that the compiler does not take."""
        return [*_head_faults(description, model), *_graph_faults(description, model)]

    def convert(self, job: Conversion) -> None:
        """Write the ONNX file, the YAML and the calibration set; compile them where the compiler is installed."""
        stem = job.output.name.removesuffix(".bin")
        folder, calibration = job.output.parent, f"{stem}_calibration_f32"
        model = onnx.load(job.onnx)
        model.ir_version = min(model.ir_version, IR_VERSION)
        give_own_weights(model.graph)
        onnx.save(model, folder / f"{stem}.onnx")
        count = write_calibration(folder / calibration, job.description, job.calibration(CALIBRATION))
        level = job.settings.get("optimize_level", USUAL_LEVEL)
        config = mapper_config(self.board, job.description, stem, calibration, level)
        write_config(folder / f"{stem}.yaml", config)
        record: dict[str, Any] = {
            "board": self.board.name,
            "march": self.board.march,
            "integer_outputs": self.board.integer_outputs,
            "optimize_level": level,
            "calibration_images": count,
        }
        job.description["rdk"] = record
        toolchain = find_toolchain()
        if toolchain is None:
            job.say("the compiler is not installed: everything up to it is written, and the maps are emulated")
            return
        record.update(_compile(toolchain, folder, stem, job))
        for line in report_lines(record):
            job.say(line)

    def open(self, path: Path, description: Mapping[str, Any]) -> Session:
        """A session on the quantised ONNX file beside a `.bin`, or on the float one beside a `.yaml`."""
        stem = path.name.rpartition(".")[0]
        if path.suffix == ".bin":
            toolchain = require_toolchain(f"{path}: running its quantised form on a PC")
            quantised = path.with_name(stem + QUANTISED)
            return BoardSession(path, description, QuantisedRuntime(quantised, description, toolchain))
        return BoardSession(path, description, Emulated(path.with_name(f"{stem}.onnx"), description))

    def written(self, path: Path) -> Path:
        """The `.yaml` file where the compiler is missing."""
        return self.files(path)[0]

    def files(self, path: Path) -> list[Path]:
        """The files that are there, the main file first."""
        stem = path.name.rpartition(".")[0]
        names = (".bin", ".yaml", ".onnx", QUANTISED, "_hb_mapper.log", "_calibration_f32", "_hb_perf")
        return [file for end in names if (file := path.with_name(stem + end)).exists()]

    def next_steps(self, path: Path) -> list[str]:
        """What to do with the files."""
        stem = path.name.rpartition(".")[0]
        if path.suffix == ".bin":
            return [f"for the board: fcos-train rdk board-folder FOLDER --model {path}"]
        return [
            f"to compile: {SETUP}",
            f"  then the same export again, or: cd {path.parent} && "
            f'PATH="$HOME/.cache/fcos-train/rdk/bin:$PATH" hb_mapper makertbin -c {path.name} --model-type onnx',
            f"  which writes {stem}_model_output/{stem}.bin",
        ]


class RdkX5(Rdk):
    """``--target rdk-x5``: int32 outputs with one scale per channel."""

    name, suffix, board = "rdk-x5", "_x5.bin", X5


class RdkX3(Rdk):
    """``--target rdk-x3``: float outputs."""

    name, suffix, board = "rdk-x3", "_x3.bin", X3


def _head_faults(description: Mapping[str, Any], model: Any) -> list[str]:
    decode, head = description["decode"], getattr(model, "bbox_head", None)
    parts = {entry["part"] for entry in description["outputs"] if "part" in entry}
    if decode.get("kind") != "distance" or "ctr" not in parts:
        return [f"{type(head).__name__} has no distances with a centerness; the decoder of the boards reads FCOS heads"]
    faults = []
    if decode.get("score", "sigmoid") != "sigmoid":
        faults.append("the decoder of the boards takes sigmoid scores; train with loss_cls.use_sigmoid=True")
    if not getattr(head, "norm_on_bbox", False):
        faults.append(
            "the head ends in exp() of pixels, which int8 ruins; train with model.bbox_head.norm_on_bbox=True "
            "(ReLU, in strides), as the configs in configs/fcos_efficientnet have it"
        )
    return faults


def _graph_faults(description: Mapping[str, Any], model: Any) -> list[str]:
    faults = []
    if description["opset"] not in OPSETS:
        faults.append(f"opset {description['opset']}: the compiler reads opset 10 and 11; leave --opset out")
    height, width = description["input"]["example_shape"]
    fusion = "BiFPN" in type(getattr(model, "neck", None)).__name__
    step = max(int(entry["stride"]) for entry in description["outputs"]) if fusion else 32
    if height % step or width % step:
        why = f"BiFPN upsamples from stride {step} by 2" if fusion else "FPN upsamples from stride 32 by 2"
        faults.append(f"--shape {height} {width}: give multiples of {step} ({why})")
    return faults


def _compile(toolchain: Toolchain, folder: Path, stem: str, job: Conversion) -> dict[str, Any]:
    """Run the compiler; its `.bin` and quantised ONNX file go beside the ONNX file.

    Returns:
        what it predicts and measured, for the description.

    Raises:
        UserError: it failed, or left no `.bin`.
    """
    check = ["hb_mapper", "checker", "--model-type", "onnx", "--march", job.description["rdk"]["march"]]
    toolchain.run([*check, "--model", f"{stem}.onnx"], folder, job.say)  # refuses a graph before the long calibration
    lines = toolchain.run(["hb_mapper", "makertbin", "-c", f"{stem}.yaml", "--model-type", "onnx"], folder, job.say)
    (folder / f"{stem}_hb_mapper.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    report, output = read_mapper_log(lines), folder / f"{stem}_model_output"
    for name in (f"{stem}.bin", stem + QUANTISED):
        if not (output / name).is_file():
            raise UserError(f"hb_mapper left no {name}; its last line: {lines[-1][:300]}")
        shutil.move(output / name, folder / name)
    record = {**as_record(report), **_summary(output, report)}
    if shutil.which("dot") is None:
        job.say("note: hb_perf draws the compiled model only where Graphviz is installed")
    else:
        toolchain.run(["hb_perf", f"{stem}.bin"], folder, job.say)
        shutil.move(folder / "hb_perf_result" / stem, folder / f"{stem}_hb_perf")
    runtime = QuantisedRuntime(folder / (stem + QUANTISED), job.description, toolchain)
    record["scales"] = {
        output.name: output.scales.astype(float).tolist() for output in runtime.outputs if output.scales is not None
    }
    runtime.close()
    return record


def _summary(output: Path, report: MapperReport) -> dict[str, Any]:
    """The number of operations, which only the file of the subgraph has; nothing for several subgraphs."""
    files = sorted(output.glob("*_subgraph_*.json"))
    if len(files) != 1 or report.predicted is None:
        return {}
    summary = json.loads(files[0].read_text(encoding="utf-8")).get("summary", {})
    return {"predicted": vars(predicted_in(summary))}
