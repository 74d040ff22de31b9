"""The command that converts an ONNX file to an `.om`: composed here, and run if CANN is installed."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fcos_train.deploy.ascend.aipp import aipp_text
from fcos_train.deploy.ascend.options import OmOptions
from fcos_train.deploy.parts.input_rule import InputRule
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole


@dataclass(frozen=True)
class Signature:
    """Name and shape of the input and names of the outputs of an ONNX file; None for dynamic axes."""

    name: str
    shape: tuple[int | None, ...]
    outputs: tuple[str, ...]


def signature(model: Path) -> Signature:
    """Read the signature of an ONNX file without its external weights.

    Raises:
        UserError: no such file, or not an ONNX model of one image input.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("reading an ONNX file needs onnx: pip install onnx") from None
    if not model.is_file():
        raise UserError(f"--model {model}: no such file")
    try:
        graph = onnx.load(str(model), load_external_data=False).graph
    except Exception as error:  # protobuf's decoding error
        raise UserError(f"{model} is not an ONNX file: {error}") from None
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise UserError(f"{model}: expected one input of the form (N, 3, H, W), found {[v.name for v in inputs]}")
    sides = inputs[0].type.tensor_type.shape.dim
    shape = tuple(side.dim_value if side.HasField("dim_value") and side.dim_value else None for side in sides)
    return Signature(inputs[0].name, shape, tuple(value.name for value in graph.output))


def command(options: OmOptions, aipp_file: Path | None = None) -> list[str]:
    """Compose the atc or aoe command.

    Raises:
        UserError: a dynamic axis without a value, or a value that contradicts the model.
    """
    found = signature(options.model)
    sides = []
    for flag, fixed, wanted in zip(
        ("--batch-size", "", "--input-height", "--input-width"),
        found.shape,
        (options.batch, None, options.height, options.width),
        strict=True,
    ):
        if fixed and wanted and fixed != wanted:
            raise UserError(
                f"{options.model} has a fixed size of {fixed}, not {wanted} as {flag} says; export it for that size"
            )
        side = wanted or fixed or {"--batch-size": 1, "": 3}.get(flag)
        if not side:
            raise UserError(f"{options.model} takes inputs of any size, an .om needs a fixed one: give {flag}")
        sides.append(side)
    words = ["aoe" if options.aoe else "atc", "--framework=5", f"--model={options.model}", f"--output={options.target}"]
    if options.aoe:
        words.append("--job_type=2")
    words += [
        "--input_format=NCHW",
        f"--input_shape={found.name}:{','.join(map(str, sides))}",
        f"--out_nodes={options.out_nodes or ';'.join(found.outputs)}",
        "--log=error",
    ]
    if not options.aoe:  # aoe tunes for the card that it runs on
        words.append(f"--soc_version={options.soc_version}")
    if aipp_file:
        words.append(f"--insert_op_conf={aipp_file}")
    return [*words, *options.extra]


def convert(options: OmOptions, rule: InputRule | None = None, dry: bool = False) -> tuple[list[str], Path, bool]:
    """Write the command to `<output>.atc.sh` (or `.aoe.sh`) and run it if the tool is installed.

    Args:
        rule: normalisation for the AIPP file, if one is written.
        dry: write the command but do not run it.

    Returns:
        the words of the command, its file, and whether it ran.

    Raises:
        UserError: a fault in the model, a missing AIPP file, or the tool failed; its output is on the terminal.
    """
    aipp_file = None
    if options.aipp:
        aipp_file = Path(options.aipp)
        if not aipp_file.is_file():
            raise UserError(f"--aipp {aipp_file}: no such file")
    words = command(options, aipp_file)
    if options.aipp == "":
        if rule is None:
            raise UserError("--aipp without a file needs to know the normalisation: give --rule fsaf, fcos or cascade")
        shape = next(word for word in words if word.startswith("--input_shape=")).rsplit(",", 2)
        rule = rule.at(int(shape[1]), int(shape[2]))
        aipp_file = write_whole(options.target.with_name(f"{options.target.name}.aipp.cfg"), aipp_text(rule))
        words = command(options, aipp_file)
    script = options.target.with_name(f"{options.target.name}.{words[0]}.sh")
    write_whole(script, "#!/bin/sh\n" + shlex.join(words) + "\n")
    if dry or shutil.which(words[0]) is None:
        return words, script, False
    done = subprocess.run(words)
    if done.returncode:
        raise UserError(f"{words[0]} ended with status {done.returncode}; the command is in {script}")
    write_whole(
        options.target.with_name(f"{options.target.name}.om.json"),
        json.dumps({"command": words, "soc_version": options.soc_version, "model": str(options.model)}, indent=2),
    )
    return words, script, True
