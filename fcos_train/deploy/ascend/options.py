"""The options of the steps that convert, run and evaluate a model; importing them imports no torch and no OpenCV."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fcos_train.config.fields import Option, Options, existing, existing_file, truth
from fcos_train.config.options import AllowOutside, Device, OptionalConfig, SafeConfig, TrustCheckpoint
from fcos_train.deploy.ascend.ais_flags import AisFlags
from fcos_train.deploy.onnx.options import End, Shape

MODELS = ("fsaf", "fcos", "cascade")  # the keys of rules.RULES
LAYOUTS = ("benchmark", "ais")
FORMATS = ("BIN", "TXT", "NPY")


def _file_or_empty(value: str) -> str | None:
    return existing_file(value) if value else None


@dataclass(frozen=True)
class OmOptions(Options):
    """What to convert to an ``.om``, and how.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    model: Annotated[Path, Option("the exported model", metavar="ONNX", check=existing_file)]
    output: Annotated[Path | None, Option("the .om to write", metavar="OM", default="beside the model")] = None
    soc_version: Annotated[
        str, Option("the chip, as npu-smi info names it with Ascend before it, e.g. Ascend310P3", metavar="SOC")
    ] = "Ascend310"
    batch: Annotated[
        int | None,
        Option("images per input", metavar="N", default="the model's, or 1", flags=("--batch-size",), least=1),
    ] = None
    height: Annotated[
        int | None,
        Option("input height", metavar="H", default="the model's", flags=("--input-height",), least=1),
    ] = None
    width: Annotated[
        int | None,
        Option("input width", metavar="W", default="the model's", flags=("--input-width",), least=1),
    ] = None
    out_nodes: Annotated[
        str | None, Option("outputs, as name;name or node:0;node:0", metavar="A;B", default="the model's, in its order")
    ] = None
    aipp: Annotated[
        str | None,
        Option(
            "normalise inside the .om as this AIPP file says; without FILE one is written beside the output",
            metavar="FILE",
            default="no AIPP",
            bare="",
            check=_file_or_empty,
        ),
    ] = None
    aoe: Annotated[bool, Option("tune with aoe")] = False
    extra: Annotated[
        tuple[str, ...],
        Option("further words for the command, each as --extra=--WORD=VALUE", metavar="WORD", default="none"),
    ] = ()
    rule: Annotated[
        str | None,
        Option(
            "the model whose normalisation is written to the AIPP file",
            metavar="MODEL",
            default="that of the JSON beside the model",
            choices=MODELS,
        ),
    ] = None
    dry_run: Annotated[bool, Option("write the command, do not run it")] = False
    unchecked: Annotated[
        bool, Option("do not check the graph's operators, its opset and --out-nodes against what atc takes")
    ] = False

    @property
    def target(self) -> Path:
        """The output without its suffix, which the converter appends itself."""
        return (self.output or self.model).with_suffix("")


@dataclass(frozen=True)
class Calls:
    """How the model is called."""

    loop: Annotated[
        int,
        Option(
            "calls per batch, the results are those of the last; without --input: pure inference (layout ais)",
            metavar="N",
            least=1,
        ),
    ] = 1
    warmup: Annotated[
        int, Option("calls before that are not counted", metavar="N", flags=("--warmup-count",), least=0)
    ] = 0
    data: Annotated[
        str,
        Option(
            "generated inputs of pure inference",
            metavar="TYPE",
            flags=("--pure-data-type",),
            choices=("zero", "random"),
        ),
    ] = "zero"
    output_axis: Annotated[
        int,
        Option("axis of the outputs that counts images", metavar="AXIS", flags=("--output-batchsize-axis",), least=0),
    ] = 0


@dataclass(frozen=True)
class InferOptions(Options):
    """What to run over which inputs, and in which layout the results are written.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    model: Annotated[
        str,
        Option("an .onnx, or an .om where ais_bench is installed", metavar="FILE", flags=("--model", "-om_path")),
    ]
    inputs: Annotated[
        str | None,
        Option(
            "info file, folder of .bin files, or files with commas",
            metavar="WHAT",
            default="pure inference",
            flags=("--input", "-input_text_path"),
        ),
    ] = None
    output: Annotated[str, Option("folder for the results", metavar="DIR")] = "result"
    layout: Annotated[str, Option("whose files to write", metavar="LAYOUT", choices=LAYOUTS)] = "benchmark"
    device: Annotated[
        int,
        Option(
            "card of an .om",
            metavar="ID",
            flags=("--device", "--device-id", "-device_id"),
            least=0,
            expected="give one card, such as 0; run the parts of the images one after the other",
        ),
    ] = 0
    batch: Annotated[
        int | None,
        Option(
            "images per call",
            metavar="N",
            default="the model's, or 1",
            flags=("--batch-size", "--batchsize", "-batch_size"),
            least=1,
        ),
    ] = None
    width: Annotated[
        int | None,
        Option("input width", metavar="W", default="the model's", flags=("--input-width", "-input_width"), least=1),
    ] = None
    height: Annotated[
        int | None,
        Option("input height", metavar="H", default="the model's", flags=("--input-height", "-input_height"), least=1),
    ] = None
    fmt: Annotated[str, Option("format of the results", metavar="FORMAT", flags=("--outfmt",), choices=FORMATS)] = "BIN"
    dirname: Annotated[
        str | None,
        Option(
            "layout ais: name of the results' folder", metavar="NAME", default="the time", flags=("--output-dirname",)
        ),
    ] = None
    rounds: Annotated[
        int,
        Option(
            "layout benchmark: pure inference of N calls, without files",
            metavar="N",
            flags=("--round", "-round"),
            least=0,
        ),
    ] = 0
    calls: Calls = Calls(warmup=1)
    ais: AisFlags = AisFlags()
    aipp: Annotated[
        str | None,
        Option(
            "the inputs are pixels; normalise them as this AIPP file says (.onnx only)",
            metavar="FILE",
            default="the inputs are normalised",
            flags=("--aipp-config",),
        ),
    ] = None
    debug: Annotated[bool, Option("print the model's input and outputs", metavar="BOOL", bare="true", parse=truth)] = (
        False
    )

    def conflicts(self) -> list[str]:
        """Inputs that are missing, and an AIPP file in two places."""
        faults = []
        if not self.inputs and not self.rounds and self.layout == "benchmark":
            faults.append(
                "--input: give an info file, a folder of .bin files, or the files (or --round N for speed alone)"
            )
        if self.aipp and self.model.endswith(".om"):
            faults.append("--aipp-config is for an .onnx; an .om has its AIPP file inside")
        return faults

    @property
    def folder(self) -> Path:
        """Where the results of the layout ais go."""
        return Path(self.output) / (self.dirname or time.strftime("%Y_%m_%d-%H_%M_%S"))


@dataclass(frozen=True)
class BenchmarkOptions(Options):
    """What to measure.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    model: Annotated[
        tuple[str, ...], Option("models to compare, .onnx or .om; {} in a name is the batch size", metavar="FILE")
    ]
    batch_sizes: Annotated[tuple[int, ...], Option("images per call", metavar="N", least=1)] = (1, 4, 8, 16, 32, 64)
    rounds: Annotated[int, Option("calls per batch size", metavar="N", flags=("--rounds", "--round"), least=1)] = 20
    chips: Annotated[
        int, Option("chips of a card, whose speeds add up (an Ascend 310 card has 4)", metavar="N", least=1)
    ] = 1
    height: Annotated[
        int | None, Option("input height", metavar="H", default="the model's", flags=("--input-height",), least=1)
    ] = None
    width: Annotated[
        int | None, Option("input width", metavar="W", default="the model's", flags=("--input-width",), least=1)
    ] = None
    device: Annotated[int, Option("card of an .om", metavar="ID", flags=("--device-id", "--device"), least=0)] = 0


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """What to compare: a checkpoint and its export.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    checkpoint: Annotated[str, Option("the trained weights", metavar="PTH", check=existing)]
    data_path: Annotated[
        str,
        Option("data set in COCO, VOC or YOLO layout; its validation images count", metavar="DIR", check=existing),
    ]
    model: Annotated[
        str | None,
        Option(
            "an exported model of any target, or an .om where ais_bench is installed",
            metavar="FILE",
            default="export the checkpoint",
            check=existing,
        ),
    ] = None
    config: OptionalConfig = None
    work_dir: Annotated[str, Option("folder for all files of the evaluation", metavar="DIR")] = "work_dirs/ascend"
    end: End = "nms"
    shape: Shape = None
    description: Annotated[
        str | None,
        Option("the exporter's description", metavar="JSON", default="beside the model", flags=("--sidecar",)),
    ] = None
    device: Device = "auto"
    device_id: Annotated[int, Option("card of an .om", metavar="ID", least=0)] = 0
    limit: Annotated[
        int | None,
        Option(
            "only the first N images (graphs of --end ascend are slow without a card)",
            metavar="N",
            default="all",
            least=1,
        ),
    ] = None
    tolerance: Annotated[
        float | None,
        Option(
            "largest difference of the mAPs",
            metavar="T",
            default="0.001; for fp16, ascend and an .om 0.003; for int8 0.02",
            least=0,
        ),
    ] = None
    trust_checkpoint: TrustCheckpoint = False
    safe_config: SafeConfig = False
    allow_outside: AllowOutside = ()

    def conflicts(self) -> list[str]:
        """A shape for a model that has one."""
        if self.model and self.shape:
            return ["--shape is for exporting; the model given with --model has its own"]
        return []
