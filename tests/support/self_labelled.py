"""A data set whose boxes are the best detections of a detector, so that its own mAP is high without training."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from tests.support.small_detectors import CLASSES


def label_with(detector, folder: Path, images: int = 4, size: tuple[int, int] = (256, 192), most: int = 15) -> Path:
    """Write `folder` in COCO layout, training and validation alike: drawn images and what the detector finds in them.

    Args:
        size: (width, height) of the images. Image ids start at 10, category ids at 2 in steps of 3.
        most: maximum number of boxes of an image, highest score first.
    """
    from fcos_train.data.shapes import draw_image

    entries, boxes = [], []
    for split in ("train", "val"):
        (folder / f"{split}2017").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(images):
        picture = draw_image(random, size)[0]
        name = f"cell_{number}.png"
        entries.append({"id": number + 10, "file_name": name, "width": size[0], "height": size[1]})
        for split in ("train", "val"):
            cv2.imwrite(str(folder / f"{split}2017" / name), picture)
        found = detector(picture)
        for box, label in list(zip(found.boxes.tolist(), found.labels.tolist(), strict=True))[:most]:
            side = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            entry = {"id": len(boxes) + 1, "image_id": number + 10, "category_id": 3 * label + 2, "bbox": side}
            boxes.append({**entry, "area": side[2] * side[3], "iscrowd": 0})
    categories = [{"id": 3 * i + 2, "name": name} for i, name in enumerate(CLASSES)]
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        content = json.dumps({"images": entries, "annotations": boxes, "categories": categories})
        (folder / "annotations" / f"instances_{split}2017.json").write_text(content)
    return folder


def table(text: str) -> dict[str, list[float]]:
    """The rows of `fcos-train ascend evaluate`: name -> mAP, AP50, AP75."""
    rows = [line.split() for line in text.splitlines()[-5:-1]]
    assert rows[0] == ["mAP", "AP50", "AP75"]
    return {row[0]: [float(value) for value in row[1:]] for row in rows[1:]}
