"""Small data sets as annotation tools write them: images of noise, annotations that the test gives."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

SIZE = (64, 48)  # width, height in px
BOX = [4, 6, 20, 16]  # x, y, w, h in px
XML = """<?xml version="1.0"{declared}?>
<annotation><filename>{file}</filename><size><width>64</width><height>48</height></size>
<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>4</xmin><ymin>6</ymin><xmax>24</xmax><ymax>22</ymax></bndbox></object></annotation>
"""


def picture(path: Path) -> Path:
    """An image of SIZE at ``path``; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix or ".jpg", np.full((SIZE[1], SIZE[0], 3), 99, np.uint8))
    assert done
    path.write_bytes(data.tobytes())
    return path


def coco(names: list[str], **more: object) -> dict:
    """A box of class cat in each image, ids from 1; ``more`` replaces values of all annotations."""
    images = [{"id": i, "file_name": n, "width": SIZE[0], "height": SIZE[1]} for i, n in enumerate(names, start=1)]
    annotation = {"category_id": 1, "bbox": BOX, "area": 320, "iscrowd": 0, **more}
    annotations = [{"id": i, "image_id": i, **annotation} for i in range(1, len(names) + 1)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}


def coco_set(root: Path, train: dict | None = None, val: dict | None = None) -> Path:
    """train/ with a.jpg and b.jpg, val/ with c.jpg; a split's annotations may be given instead."""
    for split, names, given in (("train", ["a.jpg", "b.jpg"], train), ("val", ["c.jpg"], val)):
        for name in names:
            picture(root / split / name)
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(given or coco(names)))
    return root


def xml(file: str = "x.jpg", name: str = "cat", declared: str | None = None, difficult: str = "0") -> str:
    """One object of a class in an image of SIZE."""
    encoding = f' encoding="{declared}"' if declared else ""
    return XML.format(file=file, name=name, declared=encoding, difficult=difficult)


def voc_set(root: Path, stems: tuple[str, ...] = ("a", "b"), suffix: str = ".jpg") -> Path:
    """PASCAL's folders; all ``stems`` but the last are to train on, the last to validate on."""
    for name in stems:
        picture(root / "JPEGImages" / f"{name}{suffix}")
        path = root / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(xml())
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(stems[:-1]) + "\n")
    (lists / "val.txt").write_text(stems[-1] + "\n")
    return root
