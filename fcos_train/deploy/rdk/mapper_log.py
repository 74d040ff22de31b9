"""Reads what the vendor's compiler prints and writes: predicted speed, and the similarity of nodes and outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmcv_overrides.errors import UserError

COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\[\d{1,3}m")
PREDICTED = re.compile(r"FPS=\s*([\d.]+),\s*latency\s*=\s*([\d.]+)\s*us,\s*DDR\s*=\s*(\d+)\s*bytes")
NODE = re.compile(r"^(\S+)\s+(BPU|CPU|JIT)\s+(\S+)\s+(\S+)(?:\s+(--|[\d.]+))?(?:\s+(\S+))?(?:\s+(\S+))?\s*$")
OUTPUT = re.compile(r"^(\S+)\s+(-?[\d.]+(?:e[-+]?\d+)?)((?:\s+[\d.]+(?:e[-+]?\d+)?){3})\s*$")


@dataclass(frozen=True)
class Predicted:
    """Speed that the compiler predicts for one core of the BPU.

    Attributes:
        fps: images per second. latency: ms per image. ddr: bytes of memory traffic per image.
        operations: of the BPU per image; None where it is not known.
    """

    fps: float
    latency: float
    ddr: int
    operations: int | None = None


@dataclass(frozen=True)
class Node:
    """A node of the compiled model.

    Attributes:
        name, kind: its name and operator. on: BPU or CPU. subgraph: which it belongs to.
        cosine: similarity of the quantised to the float output; None where the compiler gives none (checker).
        dtype: of its output.
    """

    name: str
    on: str
    subgraph: str
    kind: str
    cosine: float | None
    dtype: str


@dataclass(frozen=True)
class Similarity:
    """How far a quantised output is from the float one, on the first calibration image."""

    name: str
    cosine: float
    l1: float
    l2: float
    chebyshev: float


@dataclass(frozen=True)
class MapperReport:
    """What a compilation printed.

    Attributes:
        predicted: None where no subgraph runs on the BPU.
        nodes, outputs: rows of its tables. removed: names of the nodes that were removed.
        versions: name -> version of the compiler's parts.
    """

    predicted: Predicted | None
    nodes: tuple[Node, ...]
    outputs: tuple[Similarity, ...]
    removed: tuple[str, ...]
    versions: Mapping[str, str]


def plain_lines(text: str) -> list[str]:
    """The lines without colours; of a progress bar, which rewrites its line, only what is left at its end."""
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in COLOUR.sub("", text).split("\n"))
    return [line.rstrip() for line in lines if line.strip()]


def read_mapper_log(lines: Sequence[str]) -> MapperReport:
    """Read the output of ``hb_mapper makertbin`` or ``checker``, as :func:`plain_lines` gives it.

    Raises:
        UserError: it has no table of nodes.
    """
    nodes = tuple(_node(found) for line in _table(lines, "Node ") if (found := NODE.match(line)))
    if not nodes:
        raise UserError("the output of hb_mapper has no table of nodes; is it of another version than 1.24?")
    outputs = []
    for line in _table(lines, "Output "):
        found = OUTPUT.match(line)
        if found:
            outputs.append(Similarity(found[1], float(found[2]), *map(float, found[3].split())))
    removed = [found[1] for line in lines if (found := re.search(r"Node '(.+)' is removed", line))]
    versions: dict[str, str] = {}
    for line in lines:
        version = re.search(r"(hbdk|horizon_nn|hb_mapper) version\s+([\d.]+)", line)
        if version:
            versions.setdefault(version[1], version[2])
    return MapperReport(predicted_by(lines), nodes, tuple(outputs), tuple(removed), versions)


def predicted_by(lines: Sequence[str]) -> Predicted | None:
    """The predicted speed in the lines of a log; of several subgraphs, which run one after another, the sum."""
    found = [match for line in lines if (match := PREDICTED.search(line))]
    if not found:
        return None
    latency = sum(float(match[2]) for match in found) / 1000
    fps = float(found[0][1]) if len(found) == 1 else 1000 / latency
    return Predicted(fps, latency, sum(int(match[3]) for match in found))


def predicted_in(summary: Mapping[str, Any]) -> Predicted:
    """The predicted speed in the `summary` of a ``*_subgraph_0.json``.

    Raises:
        UserError: an entry is missing.
    """
    try:
        fps = float(summary["FPS"])
        operations = int(summary["BPU OPs per frame (effective)"])
        return Predicted(fps, 1000 / fps, int(summary["DDR bytes per frame"]), operations)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"the summary of the compiled subgraph lacks {error}; is it of another version?") from error


def _table(lines: Sequence[str], title: str) -> list[str]:
    """The rows of the last table with this first column: after the line below its head, up to the next log line."""
    heads = [place for place, line in enumerate(lines) if line.startswith(title)]
    rows: list[str] = []
    for line in lines[heads[-1] + 1 :] if heads else []:
        if set(line.strip()) <= set("-="):
            if rows:
                break
            continue
        if re.match(r"\d{4}-\d{2}-\d{2} ", line):
            break
        rows.append(line)
    return rows


def _node(found: re.Match[str]) -> Node:
    cosine = float(found[5]) if found[5] not in (None, "--") else None
    return Node(found[1], found[2], found[3], found[4], cosine, found[7] or found[6] or "")
