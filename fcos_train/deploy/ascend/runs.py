"""Runs inference like one of the vendor's runners, or with ais_bench on a card."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fcos_train.deploy.ascend.aipp import AippSession
from fcos_train.deploy.ascend.ais_flags import Sides, sides
from fcos_train.deploy.ascend.infer import Outcome, inputs_of, run_empty, run_files
from fcos_train.deploy.ascend.info import read_info
from fcos_train.deploy.ascend.options import Calls, InferOptions
from fcos_train.deploy.ascend.perf import write_benchmark, write_pure, write_summary
from fcos_train.deploy.parts.files import some
from fcos_train.deploy.parts.session import OnnxSession, Session
from mmcv_overrides.errors import UserError

LONGEST_WORD = 120_000  # Linux takes 128 KiB in one argument
OWN_SCRIPTS = Path(__file__).resolve().parents[3] / "scripts" / "ascend"  # has a script named ais_bench, too


def infer(options: InferOptions) -> tuple[Path, list[str]]:
    """Run the model.

    Returns:
        the folder of results (for pure inference of benchmark: of the perf text), and lines for the terminal.

    Raises:
        UserError: the model or the inputs do not fit; nothing has run then.
    """
    if options.model.endswith(".om"):
        return _on_card(options)
    lines = options.ais.without_card()
    session = _session(options)
    lines += _described(session) if options.debug else []
    output = Path(options.output)
    if options.rounds:
        outcome = run_empty(session, replace(options.calls, loop=options.rounds))
        return output, [
            *lines,
            *write_pure(outcome.clocks.computing, session.batch, options.model, options.device, output),
        ]
    files = inputs_of(options.inputs) if options.inputs else []
    if options.layout == "benchmark":
        folder = output / f"dumpOutput_device{options.device}"
        outcome = run_files(session, files, folder, 1, options.fmt, options.calls)
        path, figures = write_benchmark(outcome, session.batch, options.device)
    else:
        folder = options.folder
        if files:
            outcome = run_files(session, files, folder, 0, options.fmt, options.calls)
        else:
            outcome = run_empty(session, options.calls, folder, options.fmt)
        path, figures = write_summary(outcome, session.batch)
    lines += _older(folder, outcome)
    count = outcome.clocks.samples if options.inputs else "pure inference:"
    return folder, [*lines, *figures, f"[INFO] {count} results in {folder}, figures in {path}"]


def _older(folder: Path, outcome: Outcome) -> list[str]:
    """A line if the folder also has results of an earlier run, which steps that read the folder would take too."""
    written = {Path(path).name for _, paths in outcome.calls for path in paths}
    older = sorted(path.name for path in folder.iterdir() if path.name not in written) if folder.is_dir() else []
    return [f"note: {folder} also has {len(older)} files of an earlier run: {some(older)}"] if older else []


def _session(options: InferOptions) -> Session:
    """The model in onnxruntime, with the normalisation of the AIPP file if one is given."""
    wanted = sides(options.ais, options.batch, options.height, options.width)
    wanted = _of_info(options.inputs, wanted)
    session: Session = OnnxSession(options.model, wanted.batch, wanted.height, wanted.width)
    if wanted.name not in (None, session.input_name):
        raise UserError(f"{options.model} has the input {session.input_name}, not {wanted.name}")
    return AippSession(session, options.aipp) if options.aipp else session


def _of_info(inputs: str | None, wanted: Sides) -> Sides:
    """The requested size, else that of the info file."""
    if wanted.width or wanted.height or not inputs or not inputs.endswith(".info"):
        return wanted
    found = {(row.width, row.height) for row in read_info(inputs)}
    if len(found) > 1:
        raise UserError(
            f"{inputs} lists files of {len(found)} sizes, e.g. {sorted(found)[:3]}; it must be the info file of "
            "the .bin files, which all have the size of the network input"
        )
    width, height = found.pop()
    return replace(wanted, width=width, height=height)


def _described(session: Session) -> list[str]:
    """Input and outputs of a model, for the terminal."""
    kind = "uint8" if session.kind == "u1" else "float32"
    shape = ",".join(map(str, session.shape))
    return [f"[DEBUG] input {session.input_name}: {shape} {kind}; outputs: {', '.join(session.outputs)}"]


def ais_bench(model: str | Path) -> list[str]:
    """The first words of an ais_bench command.

    Raises:
        UserError: there is no such model, or ais_bench is not installed.
    """
    if not Path(model).is_file():
        raise UserError(f"--model {model}: no such file")
    program = _program("ais_bench")
    if program is None and importlib.util.find_spec("ais_bench") is None:
        raise UserError(
            f"{model} runs only on a card, and ais_bench is not installed here. "
            "Give the ONNX file it was made from to run it with onnxruntime"
        )
    return [program] if program else [sys.executable, "-m", "ais_bench"]


def _program(name: str) -> str | None:
    """The first program of that name on PATH, other than the product's own script."""
    for place in os.get_exec_path():
        found = shutil.which(name, path=place)
        if found and Path(found).resolve().parent != OWN_SCRIPTS:
            return found
    return None


def _on_card(options: InferOptions) -> tuple[Path, list[str]]:
    """Run an `.om` with ais_bench."""
    words = [
        *ais_bench(options.model),
        "--model",
        options.model,
        "--device",
        str(options.device),
        "--outfmt",
        options.fmt,
    ]
    words += ["--batchsize", str(options.batch)] if options.batch else []
    calls, plain = options.calls, Calls(warmup=1)
    for flag, value, default in (
        ("--loop", options.rounds or calls.loop, plain.loop),
        ("--warmup_count", calls.warmup, plain.warmup),
        ("--pure_data_type", calls.data, plain.data),
        ("--output_batchsize_axis", calls.output_axis, plain.output_axis),
        ("--debug", int(options.debug), 0),
    ):
        words += [flag, str(value)] if value != default else []
    words += options.ais.words()
    folder = options.folder
    if not options.rounds:
        words += ["--input", _in_words(inputs_of(options.inputs))] if options.inputs else []
        folder.parent.mkdir(parents=True, exist_ok=True)
        words += ["--output", str(folder.parent), "--output_dirname", folder.name]
    done = subprocess.run(words)
    if done.returncode:
        raise UserError(f"ais_bench ended with status {done.returncode}; its output is above")
    if options.layout == "benchmark" and not options.rounds:
        folder = _as_benchmark(folder, Path(options.output) / f"dumpOutput_device{options.device}")
    return folder, [f"[INFO] ais_bench wrote its results to {folder}"]


def _as_benchmark(results: Path, folder: Path) -> Path:
    """Move `<stem>_<i>.<format>` of ais_bench to the folder of benchmark, numbered from 1."""
    if not results.is_dir():
        raise UserError(f"ais_bench wrote no results to {results}; its output is above")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(results.iterdir()):
        if match := re.fullmatch(r"(.+)_(\d+)(\.\w+)", path.name):
            path.replace(folder / f"{match[1]}_{int(match[2]) + 1}{match[3]}")
    return folder


def _in_words(files: Sequence[Path]) -> str:
    """The folder that contains exactly these files, else their names separated by commas."""
    folder = files[0].parent
    if len(files) > 1 and sorted(files) == sorted(folder.glob("*.bin")):
        return str(folder)
    names = ",".join(map(str, files))
    if len(names) > LONGEST_WORD:
        raise UserError(f"{len(files)} files are too many for one command; put them into a folder of their own")
    return names
