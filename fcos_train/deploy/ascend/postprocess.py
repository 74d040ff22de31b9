"""Converts the runner's dumps to one text file per image with lines `<class name> <score> <x1> <y1> <x2> <y2>`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fcos_train.data.images import read_image
from fcos_train.deploy.ascend.dumps import Dumps, Found
from fcos_train.deploy.ascend.info import Row, by_stem, read_info
from fcos_train.deploy.parts.input_rule import InputRule
from fcos_train.infer.draw import draw_plain
from fcos_train.progress import track
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole
from mmcv_overrides.printable import printable

GREEN, RED, JPEG_QUALITY = (0, 255, 0), (0, 0, 255), 70


def postprocess(
    dumps: str | Path,
    info: str | Path,
    results: str | Path,
    rule: InputRule,
    classes: Sequence[str],
    base: int | None = None,
    draw: bool = False,
) -> int:
    """Write `<results>/<stem>.txt` for every image of an info file, boxes in pixels of the image.

    Args:
        dumps: folder of `<stem>_<k>.bin`.
        info: info file of the images with their sizes.
        rule: how the images were prepared; its `prob_thres` is the smallest score that is written.
        classes: names by label; other labels are skipped.
        base: number of the first output; None: detected.
        draw: also write `<stem>.jpg` with the boxes.

    Returns:
        the number of objects written.

    Raises:
        UserError: missing or truncated dumps, an invalid info file, or an image to draw on that cannot be read.
    """
    rows = by_stem(read_info(info))
    found = Dumps(dumps, rows, base)
    total = 0
    for name, row in track(rows.items(), "decoding detections"):
        objects = objects_of(found.read(name), rule, row, classes)
        total += len(objects)
        lines = (f"{label} {' '.join(map(repr, values))}\n" for label, values in objects)
        write_whole(Path(results) / f"{name}.txt", "".join(lines))
        if draw:
            _draw(row, objects, Path(results) / f"{name}.jpg")
    return total


def objects_of(found: Found, rule: InputRule, row: Row, classes: Sequence[str]) -> list[tuple[str, list[float]]]:
    """(class name, [score, x1, y1, x2, y2]) of one image, in image pixels; zero rows of the padding are dropped."""
    score = found.rows[:, 4]
    # Compared in single precision, like the score: a score equal to the threshold is kept.
    keep = (score > 0) & (score >= np.float32(rule.prob_thres)) & (found.labels >= 0) & (found.labels < len(classes))
    keep &= np.isfinite(found.rows).all(axis=1)
    boxes = rule.restore(found.rows[keep, :4], row.width, row.height)
    labels, values = found.labels[keep], np.column_stack([score[keep].astype(np.float64), boxes])
    if rule.as_trained:  # boxes in the padding are clipped to size 0
        real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        labels, values = labels[real], values[real]
    return [(classes[label], value) for label, value in zip(labels.tolist(), values.tolist(), strict=True)]


def _draw(row: Row, objects: Sequence[tuple[str, list[float]]], path: Path) -> None:
    """Write the image with its boxes, as the vendor's tool draws them."""
    try:
        image = read_image(row.path)
    except UserError as error:
        raise UserError(f"cannot draw on {printable(row.path)}: {error}") from error
    boxes = [[float(int(value)) for value in values[1:]] for _, values in objects]
    texts = [f"{name}|{values[0]:.2f}" for name, values in objects]
    image = draw_plain(image, boxes, texts, GREEN, RED)
    write_whole(path, cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
