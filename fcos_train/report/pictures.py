"""Pictures with boxes drawn by supervision: ground truth beside predictions, batches, samples of a data set."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fcos_train.report.accuracy import Accuracy, worst_images
from fcos_train.report.evaluation import Evaluation, Unavailable

GREEN, RED, ORANGE, GREY = "#22c55e", "#ef4444", "#f59e0b", "#9ca3af"
LONGER = 480  # px, of a panel of the page
QUALITY = 82  # of JPEG
GAP = 6  # px between panels


@dataclass(frozen=True)
class Boxes:
    """Boxes of one kind on an image: xyxy [n, 4] in px, a text and a colour (``#rrggbb``) for each."""

    xyxy: np.ndarray
    texts: Sequence[str]
    colours: Sequence[str]


def draw(image: np.ndarray, boxes: Boxes, longer: int = LONGER) -> np.ndarray:
    """The image u8 [H, W, 3] BGR, scaled so that its longer side is ``longer`` px, with the boxes and their texts."""
    import supervision as sv

    scale = longer / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    picture: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    if not len(boxes.xyxy):
        return picture
    detections: Any = sv.Detections(np.asarray(boxes.xyxy, np.float32) * scale, class_id=np.arange(len(boxes.xyxy)))
    palette = sv.ColorPalette([sv.Color.from_hex(colour) for colour in boxes.colours])
    picture = sv.BoxAnnotator(palette, thickness=2).annotate(picture, detections)
    written = np.array([bool(text) for text in boxes.texts])
    if not written.any():
        return picture
    labels = sv.LabelAnnotator(palette, text_color=sv.Color.BLACK, text_scale=0.35, text_padding=2)
    return labels.annotate(picture, detections[written], [text for text in boxes.texts if text])


def of_classes(xyxy: np.ndarray, labels: Sequence[int], classes: Sequence[str], palette: Sequence[str]) -> Boxes:
    """Boxes named and coloured by their class; a label without a name is shown as its number."""
    names = [classes[i] if 0 <= i < len(classes) else str(i) for i in labels]
    return Boxes(xyxy, [_plain(name) for name in names], [palette[i % len(palette)] for i in labels])


def _plain(text: str) -> str:
    """Text that OpenCV's fonts can draw."""
    return text.encode("ascii", "replace").decode()


def beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one height side by side."""
    gap = np.full((pictures[0].shape[0], GAP, 3), 128, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.hstack(parts[:-1])


def grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures in rows; smaller ones are placed in the top left of their cell."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    rows = -(-len(pictures) // columns)
    whole = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 128, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        whole[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return whole


def write(path: Path, picture: np.ndarray) -> None:
    """Write a picture as the ending of ``path`` says.

    Raises:
        OSError: it cannot be written.
    """
    kind = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if path.suffix == ".jpg" else []
    path.write_bytes(cv2.imencode(path.suffix, picture, kind)[1].tobytes())


def data_uri(path: Path) -> str:
    """A picture file as the source of an ``<img>``."""
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def read(path: Path) -> np.ndarray:
    """An image u8 [H, W, 3] BGR, turned by its EXIF orientation as in training.

    Raises:
        Unavailable: it cannot be read.
    """
    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise Unavailable(f"the image {path} cannot be read ({error})") from error
    if image is None:
        raise Unavailable(f"the image {path} cannot be read")
    return image


@dataclass(frozen=True)
class Worst:
    """One of the worst images. file: its picture, ground truth beside prediction."""

    name: str
    missed: int
    invented: int
    file: Path


def worst(evaluation: Evaluation, accuracy: Accuracy, images: Path, folder: Path) -> list[Worst]:
    """Draw the images with the most missed and invented objects into ``folder/worst_*.jpg``.

    Args:
        images: the folder that the file names of the annotations are relative to.

    Raises:
        Unavailable: an image cannot be read.
    """
    for old in folder.glob("worst_*.jpg"):
        old.unlink()
    found = []
    for place, (index, missed, invented) in enumerate(worst_images(evaluation, accuracy), 1):
        name = str(evaluation.images[index].get("file_name", index))
        image = read(images / name)
        truth, prediction = _sides(evaluation, accuracy, index)
        file = folder / f"worst_{place:02}.jpg"
        write(file, beside([draw(image, truth), draw(image, prediction)]))
        found.append(Worst(name, missed, invented, file))
    return found


def _sides(evaluation: Evaluation, accuracy: Accuracy, index: int) -> tuple[Boxes, Boxes]:
    """Ground truth (missed objects in orange) and detections above the threshold (invented ones in red)."""
    above = evaluation.score >= accuracy.threshold
    truth = np.flatnonzero(evaluation.truth_image == index)
    partner = accuracy.matches.of_truth[truth]
    hit = (partner >= 0) & above[partner] if len(above) else np.zeros(len(truth), bool)
    crowd = evaluation.crowd[truth]
    colours = [GREY if c else GREEN if h else ORANGE for c, h in zip(crowd, hit, strict=True)]
    names = [_plain(evaluation.classes[label]) for label in evaluation.truth_label[truth]]
    texts = ["crowd" if c else "" if h else f"missed {n}" for c, h, n in zip(crowd, hit, names, strict=True)]
    shown = np.flatnonzero((evaluation.found_image == index) & above)
    wrong = (accuracy.matches.of_found[shown] < 0) & accuracy.matches.counted[shown]
    scored = [
        f"{_plain(evaluation.classes[evaluation.found_label[i]])} {evaluation.score[i]:.2f}" if w else ""
        for i, w in zip(shown, wrong, strict=True)
    ]
    return (
        Boxes(_xyxy(evaluation.truth_box[truth]), texts, colours),
        Boxes(_xyxy(evaluation.found_box[shown]), scored, [RED if w else GREEN for w in wrong]),
    )


def _xyxy(boxes: np.ndarray) -> np.ndarray:
    """x, y, width, height -> x1, y1, x2, y2."""
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)
