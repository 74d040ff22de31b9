"""Reads what the board's ``hrt_model_exec model_info`` and ``perf`` print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fcos_train.deploy.rdk.mapper_log import plain_lines
from mmcv_overrides.errors import UserError

TENSOR = re.compile(r"^(input|output)\[(\d+)\]:\s*$")
ENTRY = re.compile(r"^\s*([A-Za-z ]+):\s*(.*?)\s*$")
# Entry of the perf block -> field.
PERF = {
    "thread number is": "threads",
    "frame count is": "frames",
    "average latency is": "latency",
    "frame rate is": "fps",
}


@dataclass(frozen=True)
class BoardTensor:
    """An input or output of a model on the board.

    Attributes:
        kind: input or output. valid_shape, aligned_shape: without and with the padding of the BPU.
        tensor_type, layout, quantisation: as the board writes them.
        scales: one per channel; empty for other tensors than quantised ones. axis: of the scales.
        source: of an input.
    """

    kind: str
    name: str
    valid_shape: tuple[int, ...]
    aligned_shape: tuple[int, ...]
    tensor_type: str
    layout: str
    quantisation: str
    scales: tuple[float, ...] = ()
    axis: int | None = None
    source: str = ""


@dataclass(frozen=True)
class Measured:
    """One run of ``perf``.

    Attributes:
        threads: that ran at the same time. frames: images in all. latency: mean, ms. fps: images per second.
    """

    threads: int
    frames: int
    latency: float
    fps: float


@dataclass(frozen=True)
class BoardReport:
    """All that a text holds: tensors of ``model_info``, runs of ``perf``."""

    tensors: tuple[BoardTensor, ...] = ()
    measured: tuple[Measured, ...] = ()
    models: tuple[str, ...] = field(default=())


def read_board_log(text: str, where: str) -> BoardReport:
    """Read the output of one or several calls.

    Args:
        where: name of the file, for messages.

    Raises:
        UserError: neither a tensor nor a result is in it, or one lacks an entry.
    """
    lines = plain_lines(text)
    names = tuple(found[1] for line in lines if (found := re.search(r"\[model name\]:\s*(\S+)", line)))
    report = BoardReport(tuple(_tensors(lines, where)), tuple(_runs(lines, where)), names)
    if not report.tensors and not report.measured:
        raise UserError(f"{where} has neither tensors nor a result of hrt_model_exec (model_info, perf)")
    return report


def _tensors(lines: Sequence[str], where: str) -> list[BoardTensor]:
    blocks: list[tuple[str, dict[str, str]]] = []
    for line in lines:
        start, entry = TENSOR.match(line.strip()), ENTRY.match(line)
        if start:
            blocks.append((start[1], {}))
        elif blocks and entry:
            blocks[-1][1].setdefault(entry[1].strip().lower(), entry[2])
    return [_tensor(kind, entries, where) for kind, entries in blocks]


def _tensor(kind: str, entries: dict[str, str], where: str) -> BoardTensor:
    needed = ("name", "valid shape", "tensor type", "tensor layout", "quanti type")
    lacking = [name for name in needed if name not in entries]
    if lacking:
        raise UserError(f"{where}: an {kind} of model_info lacks '{lacking[0]}'; is the text complete?")
    shape = _numbers(entries["valid shape"])
    scales = tuple(float(word) for word in entries.get("scale data", "").split(",") if word.strip())
    return BoardTensor(
        kind,
        entries["name"],
        shape,
        _numbers(entries.get("aligned shape", "")) or shape,
        entries["tensor type"],
        entries["tensor layout"],
        entries["quanti type"],
        scales,
        int(entries["quantizeaxis"]) if entries.get("quantizeaxis", "").isdigit() else None,
        entries.get("input source", ""),
    )


def _runs(lines: Sequence[str], where: str) -> list[Measured]:
    runs: list[dict[str, float]] = []
    for line in lines:
        if line.strip().startswith("Running condition"):
            runs.append({})
        entry = re.match(r"^\s*(.+?\bis)\s*:\s*([\d.]+)", line)
        name = PERF.get(" ".join(entry[1].lower().split())) if entry else None
        if runs and entry and name:
            runs[-1][name] = float(entry[2])
    found = []
    for run in runs:
        lacking = [words for words, name in PERF.items() if name not in run]
        if lacking:
            raise UserError(f"{where}: a result of perf lacks '{lacking[0]}'; is the text complete?")
        found.append(Measured(int(run["threads"]), int(run["frames"]), run["latency"], run["fps"]))
    return found


def _numbers(text: str) -> tuple[int, ...]:
    """`(1,3,512,512,)`"""
    return tuple(int(word) for word in re.findall(r"\d+", text))
