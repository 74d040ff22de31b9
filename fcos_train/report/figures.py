"""Figures by matplotlib: a PNG for other documents, and an SVG whose text follows the colours of the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fcos_train.report.accuracy import GRID, Accuracy
from fcos_train.report.labels import Labels

INK = "#010203"  # of text and axes: near black in the PNG, the text colour of the page in the SVG
PALETTE = (
    "#3b82f6", "#f97316", "#10b981", "#ec4899", "#8b5cf6", "#ca8a04", "#06b6d4", "#ef4444", "#65a30d", "#a8715a",
)  # fmt: skip
NAMED = len(PALETTE)  # with more classes they are not told apart by colour
WRITTEN = 15  # most classes whose counts stand in the cells of the matrix
SMOOTHED = 20  # logged points from which on a mean is drawn over the loss
STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.fontsize": 8,
    "legend.framealpha": 0,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a class may be named "$x$"
    "xtick.color": INK,
    "ytick.color": INK,
}
Line = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Picture:
    """A finished figure. name: of its PNG, without the ending. svg: markup to put into the page."""

    name: str
    title: str
    svg: str


def _figure(
    name: str, title: str, folder: Path, draw: Callable[[Axes], None], size: tuple[float, float] = (4.8, 3.2)
) -> Picture:
    """Draw on new axes, write ``<folder>/<name>.png`` and return the SVG.

    The canvases are used directly, because ``savefig`` draws everything twice.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=110, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left")
        draw(axes)
        FigureCanvasAgg(figure).print_png(str(folder / f"{name}.png"))
        figure.set_layout_engine("none")  # it is laid out
        for patch in (figure.patch, axes.patch):
            patch.set_alpha(0)
        figure.dpi = 72
        markup = io.StringIO()
        FigureCanvasSVG(figure).print_svg(markup, metadata={"Date": None})
    return Picture(name, title, _inline(markup.getvalue(), title))


def _inline(svg: str, title: str) -> str:
    """The ``<svg>`` element, as wide as its place, in the colours and the font of the page."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"font: ((?:\d+ )?[\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}" stroke-linejoin="round"', 1)


def lines(
    name: str, title: str, folder: Path, curves: Mapping[str, Line], xlabel: str, marker: str = "", zero: bool = True
) -> Picture:
    """Curves over one axis, each with its name.

    Args:
        marker: matplotlib's; curves of few points get dots in any case. zero: the y axis begins at 0.
    """

    def draw(axes: Axes) -> None:
        for (label, (x, y)), colour in zip(curves.items(), PALETTE * (1 + len(curves) // NAMED)):
            dots = marker or ("o" if len(x) < 4 else "")
            axes.plot(x, y, label=label, color=colour, marker=dots, markersize=3.5)
        axes.set_xlabel(xlabel)
        if zero:
            axes.set_ylim(bottom=0)
        if len(curves) > 1:
            axes.legend()

    return _figure(name, title, folder, draw)


def losses(folder: Path, train: Mapping[str, Line], val: Mapping[str, Line], xlabel: str) -> Picture:
    """The total loss over its parts, and the validation loss where there is one."""

    def draw(axes: Axes) -> None:
        for (label, (x, y)), colour in zip(train.items(), PALETTE * (1 + len(train) // NAMED)):
            total = label == "loss"
            long = total and len(y) >= SMOOTHED
            axes.plot(x, y, color=colour, label=None if long else label, alpha=0.35 if long else 1, lw=1.2)
            if long:
                axes.plot(x, _smooth(y), color=colour, label="loss (smoothed)", lw=2)
        for (label, (x, y)), colour in zip(val.items(), PALETTE[::-1] * (1 + len(val) // NAMED)):
            axes.plot(x, y, "o--", color=colour, label=f"{label} (validation)", markersize=3.5)
        axes.set_xlabel(xlabel)
        axes.set_ylim(bottom=0)
        axes.legend()

    return _figure("loss", "Loss", folder, draw)


def _smooth(values: Sequence[float]) -> np.ndarray:
    """Mean over a window of a twentieth of the curve, shorter at its ends."""
    width = max(2, len(values) // 20)
    weights = np.ones(2 * width + 1)
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


def precision_recall(folder: Path, accuracy: Accuracy) -> Picture:
    """Precision over recall of each class; a dot at its largest F1."""

    def draw(axes: Axes) -> None:
        for index, curve in enumerate(c for c in accuracy.curves if c.boxes):
            colour, name = _of_class(index, curve.name, len(accuracy.curves))
            axes.plot(curve.recall, curve.precision, color=colour, label=name, lw=1.4)
            if curve.best is not None:
                axes.plot(curve.recall[curve.best], curve.precision[curve.best], "o", color=colour, markersize=4)
        _unit(axes, "recall", "precision")

    return _figure("precision_recall", "Precision over recall, IoU 0.5", folder, draw)


def f1_confidence(folder: Path, accuracy: Accuracy) -> Picture:
    """F1 over the confidence threshold of each class, and their mean."""

    def draw(axes: Axes) -> None:
        with_boxes = [curve for curve in accuracy.curves if curve.boxes]
        for index, curve in enumerate(with_boxes):
            colour, name = _of_class(index, curve.name, len(accuracy.curves))
            axes.plot(GRID, curve.f1_on_grid(), color=colour, label=name, lw=1.2)
        if len(with_boxes) > 1:
            mean = np.mean([curve.f1_on_grid() for curve in with_boxes], axis=0)
            axes.plot(GRID, mean, color=INK, lw=2.2, label="mean of the classes")
        axes.axvline(accuracy.threshold, color=INK, lw=1, ls=":")
        _unit(axes, "confidence threshold", "F1")

    return _figure("f1_confidence", "F1 over confidence, IoU 0.5", folder, draw)


def _of_class(index: int, name: str, classes: int) -> tuple[str, str | None]:
    """Colour and legend entry of a class; with many classes all are grey and unnamed."""
    return (PALETTE[index], _short(name)) if classes <= NAMED else ("#9ca3af", None)


def _short(name: str, limit: int = 18) -> str:
    """A name for axes and legends; a leading underscore would hide the entry."""
    text = name if len(name) <= limit else f"{name[: limit - 1]}\u2026"
    return f"\u200b{text}" if text.startswith("_") else text


def _unit(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1.01), ylim=(0, 1.02))
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def confusion(folder: Path, accuracy: Accuracy, classes: Sequence[str]) -> Picture:
    """The confusion matrix: counts, coloured by their share of the row (the truth)."""
    matrix = accuracy.matrix
    names = [*(_short(name, 14) for name in classes), "background"]
    side = min(9.0, 1.6 + 0.4 * len(names))

    def draw(axes: Axes) -> None:
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        share[-1] = matrix[-1] / max(matrix.sum(), 1)  # the background has no total
        axes.grid(False)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        step = max(1, len(names) // 40)
        places = range(0, len(names), step)
        axes.set_xticks(places, names[::step], rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, names[::step])
        axes.set(xlabel="prediction", ylabel="truth")
        if len(names) <= WRITTEN + 1:
            for (row, column), count in np.ndenumerate(matrix):
                empty = row == column == len(classes)
                ink = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, "" if empty else str(count), ha="center", va="center", color=ink, fontsize=8)

    title = f"Confusion matrix, confidence ≥ {accuracy.threshold:.3f}"
    return _figure("confusion_matrix", title, folder, draw, (max(side, 4.8), max(side - 0.4, 3.2)))


def label_statistics(folder: Path, splits: Mapping[str, Labels]) -> list[Picture]:
    """Boxes per class, their sizes and shapes, and how many an image has, of each split."""
    colours = dict(zip(splits, PALETTE))

    def per_class(axes: Axes) -> None:
        names = list(dict.fromkeys(name for labels in splits.values() for name in labels.classes))[:40]
        height = 0.8 / len(splits)
        for index, (split, labels) in enumerate(splits.items()):
            counts = [labels.per_class.get(name, 0) for name in names]
            places = np.arange(len(names)) + (index - (len(splits) - 1) / 2) * height
            bars = axes.barh(places, counts, height, color=colours[split], label=split)
            if len(names) <= NAMED:
                axes.bar_label(bars, padding=2, fontsize=8)
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("boxes")
        axes.legend(loc="lower right")

    def sizes(axes: Axes) -> None:
        most = max((float(labels.side.max()) for labels in splits.values() if len(labels.side)), default=1.0)
        last = max(3, math.ceil(math.log2(max(most, 2.0))))
        bins = np.geomspace(1, 2**last, 4 * last + 1)
        for split, labels in splits.items():
            axes.hist(
                np.maximum(labels.side, 1), bins.tolist(), histtype="step", color=colours[split], label=split, lw=1.6
            )
        for limit in (32, 96):
            axes.axvline(limit, color=INK, lw=0.8, ls=":")
        axes.set_xscale("log", base=2)
        powers = [2**power for power in range(last + 1)]
        axes.set_xticks(powers, [str(power) for power in powers])
        axes.set(xlabel="square root of the box area in px (dotted: COCO's 32 and 96)", ylabel="boxes")
        axes.legend()

    def shapes(axes: Axes) -> None:
        for split, labels in splits.items():
            thin = labels.size[:: max(1, len(labels.size) // 1500)]  # enough for the picture, and small as SVG
            axes.plot(thin[:, 0], thin[:, 1], ".", color=colours[split], markersize=2.5, alpha=0.4, label=split)
        axes.set(xlabel="box width / image width", ylabel="box height / image height", xlim=(0, 1.01), ylim=(0, 1.01))
        for dots in axes.get_lines():
            dots.set_rasterized(True)
        axes.legend(markerscale=3)

    def crowding(axes: Axes) -> None:
        most = max((int(labels.per_image.max()) for labels in splits.values() if len(labels.per_image)), default=1)
        bins = np.linspace(-0.5, most + 0.5, min(most + 2, 42))
        for split, labels in splits.items():
            axes.hist(labels.per_image, bins.tolist(), histtype="step", color=colours[split], label=split, lw=1.6)
        axes.set(xlabel="boxes in an image", ylabel="images")
        axes.legend()

    names = max((len(labels.classes) for labels in splits.values()), default=1)
    tall = (4.8, min(9.0, max(3.2, 1.0 + 0.24 * min(names, 40) * max(1, len(splits) * 0.7))))
    return [
        _figure("labels_classes", "Boxes per class", folder, per_class, tall),
        _figure("labels_sizes", "Box sizes", folder, sizes),
        _figure("labels_shapes", "Box shapes", folder, shapes),
        _figure("labels_per_image", "Boxes per image", folder, crowding),
    ]
