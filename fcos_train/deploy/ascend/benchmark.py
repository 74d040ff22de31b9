"""Speed of one or several models over several batch sizes, as a table: batch sizes x runners, the best batch of each.

An ``.onnx`` runs in onnxruntime on this machine, an ``.om`` with ais_bench on a card; inputs are zeros, nothing is
read or written between the calls. Where a card has several chips, each chip runs a model of its own, so that the speed
of the card is that of a chip times their number.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fcos_train.deploy.ascend.infer import run_empty
from fcos_train.deploy.ascend.options import BenchmarkOptions, Calls
from fcos_train.deploy.ascend.runs import ais_bench
from fcos_train.deploy.parts.session import OnnxSession
from mmcv_overrides.errors import UserError

THROUGHPUT = re.compile(r"\bthroughput\b[^\n]*: *([0-9.]+(?:e[+-]?[0-9]+)?)", re.IGNORECASE)  # line of ais_bench
WARM_UP = 2  # calls per batch size that are not counted
PLACE = "{}"  # in the name of a model: the batch size


@dataclass(frozen=True)
class Row:
    """Images per second of every model at one batch size, of one chip; None: the model cannot run that batch."""

    batch: int
    rates: tuple[float | None, ...]


def file_of(model: str, batch: int) -> Path:
    """The file of a batch size: models for one batch each are named like ``fsaf_bs{}.om``."""
    return Path(model.replace(PLACE, str(batch)))


def measure(options: BenchmarkOptions, say: Callable[[str], None] = print) -> list[Row]:
    """Measure every model at every batch size.

    Args:
        say: prints a line.

    Raises:
        UserError: a file is absent or no model, ais_bench is missing or failed, or no model can run any batch size.
    """
    for model in options.model:
        for batch in options.batch_sizes:
            if not file_of(model, batch).is_file():
                raise UserError(f"--model {model}: no such file: {file_of(model, batch)}")
    rows = [
        Row(batch, tuple(_rate(model, batch, options, say) for model in options.model)) for batch in options.batch_sizes
    ]
    for place, model in enumerate(options.model):
        if all(row.rates[place] is None for row in rows):
            raise UserError(f"--model {model}: it runs none of the batch sizes; export it with --dynamic batch")
    return rows


def _rate(model: str, batch: int, options: BenchmarkOptions, say: Callable[[str], None]) -> float | None:
    """Images per second of one chip."""
    path = file_of(model, batch)
    if path.suffix == ".om":
        return _on_card(path, batch, options)
    try:
        session = OnnxSession(path, batch, options.height, options.width)
    except UserError as error:
        if len(options.batch_sizes) == 1:
            raise
        say(f"{path}, batch {batch}: left out: {error}")
        return None
    seconds = run_empty(session, Calls(loop=options.rounds, warmup=WARM_UP)).clocks.computing
    return batch * len(seconds) / sum(seconds)


def _on_card(path: Path, batch: int, options: BenchmarkOptions) -> float:
    """Images per second of an ``.om``, from ais_bench's own line."""
    words = [*ais_bench(path), "--model", str(path), "--device", str(options.device), "--batchsize", str(batch)]
    words += ["--loop", str(options.rounds), "--warmup_count", str(WARM_UP)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    found = THROUGHPUT.findall(done.stdout)
    if done.returncode or not found:
        end = "\n".join(done.stdout.splitlines()[-10:])
        raise UserError(f"ais_bench on {path} ended with status {done.returncode}; the end of its output:\n{end}")
    return float(found[-1])


def table(options: BenchmarkOptions, rows: list[Row]) -> list[str]:
    """The rows of a Markdown table, and a line with the best batch size of each model.

    With several chips the rate of the card stands beside that of a chip; with several models the ratio to the first.
    """
    several = len(options.model) > 1
    head = ["batch"]
    for place, model in enumerate(options.model):
        head += [f"{model}, images/s"]
        head += [f"{options.chips} chips"] if options.chips > 1 else []
        head += ["ratio to the first"] if several and place else []
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        cells = [str(row.batch)]
        for place, rate in enumerate(row.rates):
            cells.append(_number(rate))
            cells += [_number(None if rate is None else options.chips * rate)] if options.chips > 1 else []
            cells += [_number(_ratio(rate, row.rates[0]))] if several and place else []
        lines.append(_line(cells))
    for place, model in enumerate(options.model):
        best = max((row for row in rows if row.rates[place] is not None), key=lambda row: row.rates[place] or 0.0)
        whole = options.chips * (best.rates[place] or 0.0)
        card = f", {_number(whole)} images/s of {options.chips} chips" if options.chips > 1 else ""
        lines.append(f"best batch of {model}: {best.batch}, {_number(best.rates[place])} images/s{card}")
    return lines


def _ratio(rate: float | None, first: float | None) -> float | None:
    return None if rate is None or not first else rate / first


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
