"""One inference run in the manner of one of the vendor's runners."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmcv_overrides.errors import UserError

from .infer import FORMATS, inputs_of, run_empty, run_files
from .info import read_info
from .perf import write_benchmark, write_pure, write_summary
from .session import OnnxSession

LAYOUTS = ("benchmark", "ais")
LONGEST_WORD = 120_000  # Linux takes 128 KiB in one argument


@dataclass(frozen=True)
class InferOptions:
    """Options of `fcos-train ascend infer`.

    Raises:
        UserError: values that cannot be, all of them in one message.
    """

    model: str
    inputs: str | None = None  # info file, folder, or files with commas
    output: str = "result"
    layout: str = "benchmark"
    device: int = 0
    batch: int | None = None
    width: int | None = None
    height: int | None = None
    fmt: str = "BIN"
    dirname: str | None = None
    rounds: int = 0  # pure inference, without files

    def __post_init__(self):
        faults = []
        if self.layout not in LAYOUTS:
            faults.append(f"--layout {self.layout}: choose one of {', '.join(LAYOUTS)}")
        if self.fmt not in FORMATS:
            faults.append(f"--outfmt {self.fmt}: choose one of {', '.join(FORMATS)}")
        if self.batch is not None and self.batch < 1:
            faults.append(f"--batch-size {self.batch}: must be at least 1")
        if self.rounds < 0:
            faults.append(f"--round {self.rounds}: must be at least 1")
        if not self.inputs and not self.rounds:
            faults.append("--input: give an info file, a folder of .bin files, or the files (or --round N for speed alone)")
        if faults:
            raise UserError("; ".join(faults))


def infer(options: InferOptions) -> tuple[Path, list[str]]:
    """Run the model.

    Returns:
        the folder of results (pure inference: of the text), and lines for the terminal.

    Raises:
        UserError: the model or the inputs do not fit; nothing has run then.
    """
    if options.model.endswith(".om"):
        return _on_card(options)
    width, height = _size(options)
    session = OnnxSession(options.model, options.batch, height, width)
    output = Path(options.output)
    if options.rounds:
        seconds = run_empty(session, options.rounds)
        return output, write_pure(seconds, session.batch, options.model, options.device, output)
    files = inputs_of(options.inputs)
    if options.layout == "benchmark":
        outcome = run_files(session, files, output / f"dumpOutput_device{options.device}", first=1, fmt=options.fmt)
        path, lines = write_benchmark(outcome, session.batch, options.device)
    else:
        folder = output / (options.dirname or time.strftime("%Y_%m_%d-%H_%M_%S"))
        outcome = run_files(session, files, folder, first=0, fmt=options.fmt)
        path, lines = write_summary(outcome, session.batch)
    return outcome.folder, [*lines, f"[INFO] {outcome.clocks.samples} results in {outcome.folder}, figures in {path}"]


def _size(options: InferOptions) -> tuple[int | None, int | None]:
    """The input size that was asked for, else what the info file says."""
    if options.width or options.height or not options.inputs or not options.inputs.endswith(".info"):
        return options.width, options.height
    sizes = {(row.width, row.height) for row in read_info(options.inputs)}
    if len(sizes) > 1:
        raise UserError(
            f"{options.inputs} lists files of {len(sizes)} sizes, e.g. {sorted(sizes)[:3]}; it must be the info file of "
            "the .bin files, which all have the size of the network input"
        )
    return sizes.pop()


def ais_bench(model: str | Path) -> list[str]:
    """The words that start ais_bench.

    Raises:
        UserError: there is no such model, or ais_bench is not installed.
    """
    if not Path(model).is_file():
        raise UserError(f"--model {model}: no such file")
    program = shutil.which("ais_bench")
    if program is None and importlib.util.find_spec("ais_bench") is None:
        raise UserError(
            f"{model} runs on a card only, and ais_bench is not installed here. "
            "Give the ONNX file it was made from to run it with onnxruntime"
        )
    return [program] if program else [sys.executable, "-m", "ais_bench"]


def _on_card(options: InferOptions) -> tuple[Path, list[str]]:
    """Hand an `.om` to ais_bench."""
    words = [*ais_bench(options.model), "--model", options.model, "--device", str(options.device), "--outfmt", options.fmt]
    words += ["--batchsize", str(options.batch)] if options.batch else []
    output = Path(options.output)
    name = options.dirname or time.strftime("%Y_%m_%d-%H_%M_%S")
    if options.rounds:
        words += ["--loop", str(options.rounds)]
    else:
        what = _in_words(inputs_of(options.inputs))
        output.mkdir(parents=True, exist_ok=True)
        words += ["--input", what, "--output", str(output), "--output_dirname", name]
    done = subprocess.run(words)
    if done.returncode:
        raise UserError(f"ais_bench ended with status {done.returncode}; what it said is above")
    return output / name, [f"[INFO] ais_bench left its results in {output / name}"]


def _in_words(files: Sequence[Path]) -> str:
    """The folder that holds exactly these files, else their names with commas."""
    folder = files[0].parent
    if len(files) > 1 and sorted(files) == sorted(folder.glob("*.bin")):
        return str(folder)
    names = ",".join(map(str, files))
    if len(names) > LONGEST_WORD:
        raise UserError(f"{len(files)} files are too many for one command; put them into a folder of their own")
    return names
