"""The graph file of ncnn (`.param`): a text with one layer per line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import MAX_TEXT, read_regular

MAGIC = "7767517"
DOWN = {"Convolution": (3, 13), "ConvolutionDepthWise": (3, 13), "Pooling": (2, 12)}  # settings of the stride: x, y
UP = {"Deconvolution": (3, 13), "DeconvolutionDepthWise": (3, 13), "Interp": (2, 1)}  # of the enlargement: x, y


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        kind: type of the layer, as ncnn knows it. name: of the layer.
        bottoms, tops: names of the blobs that it reads and writes.
        settings: the numbered parameters, as text.
    """

    kind: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    settings: Mapping[int, str]

    def number(self, key: int, default: float = 0) -> float:
        """The parameter of this number.

        Raises:
            UserError: it is not a number.
        """
        text = self.settings.get(key, default)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"layer {printable(self.name)}: {key}={printable(text)} is not a number")
        return value

    def count(self, key: int, default: int = 0) -> int:
        """The parameter of this number, which is a whole one."""
        return int(self.number(key, default))

    def line(self) -> str:
        """The line of the file."""
        words = (self.kind, self.name, str(len(self.bottoms)), str(len(self.tops)), *self.bottoms, *self.tops)
        return " ".join((*words, *(f"{key}={value}" for key, value in self.settings.items())))


@dataclass(frozen=True)
class Graph:
    """The layers of a network, in the order in which they run and in which their weights are stored."""

    layers: tuple[Layer, ...]

    @property
    def inputs(self) -> list[str]:
        """Blobs that are given from outside."""
        return [top for layer in self.layers if layer.kind == "Input" for top in layer.tops]

    @property
    def blobs(self) -> set[str]:
        """Names of all blobs."""
        return {top for layer in self.layers for top in layer.tops}

    def renamed(self, names: Mapping[str, str]) -> Graph:
        """The same graph with other names of blobs, old -> new."""
        return Graph(
            tuple(
                replace(
                    layer,
                    bottoms=tuple(names.get(blob, blob) for blob in layer.bottoms),
                    tops=tuple(names.get(blob, blob) for blob in layer.tops),
                )
                for layer in self.layers
            )
        )

    def text(self) -> str:
        """The content of the file."""
        lines = [MAGIC, f"{len(self.layers)} {len(self.blobs)}", *(layer.line() for layer in self.layers)]
        return "\n".join(lines) + "\n"

    def side_multiple(self) -> int:
        """What the sides of the input must be multiples of, in pixels.

        A map that is enlarged by a factor and added to the next finer one must not have been rounded up before: this
        is the largest stride of such a map.
        """
        stride: dict[str, Fraction] = dict.fromkeys(self.inputs, Fraction(1))
        largest = Fraction(1)
        for layer in self.layers:
            before = max((stride[blob] for blob in layer.bottoms), default=Fraction(1))
            factor = Fraction(1)
            if layer.kind in DOWN:
                factor = _along(layer, *DOWN[layer.kind])
            elif layer.kind in UP:
                factor = 1 / _along(layer, *UP[layer.kind])
                largest = max(largest, before)
            stride.update(dict.fromkeys(layer.tops, before * factor))
        return int(largest)


def _along(layer: Layer, across: int, down: int) -> Fraction:
    """The larger of the factors along x and y; 1 where none is given."""
    factor = max(layer.number(across, 1), layer.number(down, layer.number(across, 1)))
    return Fraction(factor) if factor > 0 else Fraction(1)


def read_graph(path: Path) -> Graph:
    """Read a `.param` file.

    Raises:
        UserError: no such file, or another format; the message names the line.
    """
    try:
        lines = read_regular(path, MAX_TEXT).decode().splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a graph of ncnn: {printable(str(error))}") from None
    if not lines or lines[0].strip() != MAGIC:
        raise UserError(f"{path} is not a text graph of ncnn: it does not begin with {MAGIC}")
    counts = lines[1].split() if len(lines) > 1 else []
    layers = tuple(_layer(line, f"{path}, line {i}") for i, line in enumerate(lines[2:], 3) if line.strip())
    graph = Graph(layers)
    if counts != [str(len(layers)), str(len(graph.blobs))]:
        raise UserError(
            f"{path} is damaged: by its line 2 it has {' layers and '.join(map(printable, counts)) or 'no layers'} "
            f"blobs, in fact {len(layers)} layers and {len(graph.blobs)} blobs"
        )
    known: set[str] = set()
    for layer in layers:
        missing = [blob for blob in layer.bottoms if blob not in known]
        if missing:
            raise UserError(
                f"{path} is damaged: layer {layer.name} reads {missing[0]}, which no layer before it writes"
            )
        known.update(layer.tops)
    return graph


def _layer(line: str, where: str) -> Layer:
    words = line.split()
    try:
        inputs, outputs = int(words[2]), int(words[3])
        blobs, settings = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
        if min(inputs, outputs) < 0 or len(blobs) != inputs + outputs:
            raise ValueError
        pairs = {int(key): value for key, value in (word.split("=", 1) for word in settings)}
    except (ValueError, IndexError):
        raise UserError(f"{where}: not a layer of ncnn: {printable(line.strip()[:80])}") from None
    return Layer(words[0], words[1], tuple(blobs[:inputs]), tuple(blobs[inputs:]), pairs)
