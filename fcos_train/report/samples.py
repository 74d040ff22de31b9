"""Pictures of a data set: images with their boxes, and the statistics of the boxes, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fcos_train.report import figures, pictures
from fcos_train.report.evaluation import read_json
from fcos_train.report.labels import statistics
from fcos_train.report.page import render, write_text

DRAWN = 16  # images of a split


@dataclass(frozen=True)
class Sample:
    """A drawn image. name: as the annotations have it. file: the picture. boxes: drawn on it."""

    name: str
    file: Path
    boxes: int


def write_pictures(splits: Mapping[str, tuple[Path, Path]], lines: Sequence[str], folder: Path) -> Path:
    """Draw a data set into a folder.

    Args:
        splits: name -> annotation file in COCO form, and the folder of its images.
        lines: of the data check, to stand on the page.
        folder: gets ``index.html``, the figures as PNG, and ``<split>_<number>.jpg``.

    Returns:
        the page.

    Raises:
        Unavailable: annotations or an image cannot be read.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {split: read_json(ann_file, "annotations") for split, (ann_file, _) in splits.items()}
    drawn = figures.label_statistics(folder, {split: statistics(content) for split, content in contents.items()})
    samples = {split: _samples(content, splits[split][1], folder, split) for split, content in contents.items()}
    page = render("data.html.j2", lines=lines, figures=drawn, samples=samples, data_uri=pictures.data_uri)
    return write_text(folder / "index.html", page)


def _samples(content: dict, images: Path, folder: Path, split: str) -> list[Sample]:
    """Images spread evenly over the split."""
    classes = [str(entry["name"]) for entry in content["categories"]]
    labels = {entry["id"]: index for index, entry in enumerate(content["categories"])}
    boxes: dict[object, list[dict]] = {}
    for annotation in content["annotations"]:
        boxes.setdefault(annotation["image_id"], []).append(annotation)
    found = content["images"]
    places = np.unique(np.linspace(0, len(found) - 1, min(DRAWN, len(found))).round().astype(int))
    samples = []
    for number, place in enumerate(places, 1):
        own = [a for a in boxes.get(found[place]["id"], []) if a["category_id"] in labels]
        corners = np.array([a["bbox"] for a in own], float).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        own_labels = [labels[a["category_id"]] for a in own]
        file = folder / f"{split}_{number:02}.jpg"
        image = pictures.read(images / found[place]["file_name"])
        pictures.write(
            file, pictures.draw(image, pictures.of_classes(corners, own_labels, classes, figures.PALETTE), 640)
        )
        samples.append(Sample(found[place]["file_name"], file, len(own)))
    return samples
