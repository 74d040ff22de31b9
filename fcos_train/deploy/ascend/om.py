"""The command that converts an ONNX file to an `.om`: composed here, and run if CANN is installed."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

from fcos_train.deploy.ascend.aipp import aipp_text
from fcos_train.deploy.ascend.model_file import input_shape, require_convertible, require_nodes, signature
from fcos_train.deploy.ascend.options import OmOptions
from fcos_train.deploy.parts.input_rule import InputRule
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole


def command(options: OmOptions, aipp_file: Path | None = None) -> list[str]:
    """Compose the atc or aoe command.

    Raises:
        UserError: a dynamic axis without a value, a value or an output that contradicts the model, or a graph that is
            not for atc.
    """
    found = signature(options.model)
    sides = input_shape(found, options.model, (options.batch, options.height, options.width))
    if not options.unchecked:
        require_convertible(found, options.model)
        if options.out_nodes:
            require_nodes(found, options.out_nodes, options.model)
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
