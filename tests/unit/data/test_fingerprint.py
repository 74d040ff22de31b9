"""Fingerprints of data sets: the same for a copy in another place, another one where annotations or images differ."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fcos_train.data.fingerprint import digest_of_file, fingerprint, fingerprint_of_files
from fcos_train.data.spec import Split
from mmcv_overrides.errors import UserError
from tests.support.tool_sets import picture
from tests.support.voc_folder import voc_folder
from tests.support.yolo_set import yolo_set

XML = """<annotation><filename>{}.jpg</filename><size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>20</ymax></bndbox></object></annotation>"""


def coco(root: Path, width: int = 20) -> Path:
    for split in ("train", "val"):
        names = [picture(root / split / name).name for name in ("a.jpg", "b.jpg")]
        data = {
            "images": [{"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(names, 1)],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, width, 20], "area": 9, "iscrowd": 0}
            ],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    return root


def voc(root: Path, width: int = 20) -> Path:
    picture(root / "p.jpg")
    return voc_folder(root / "voc", root / "p.jpg", lambda number: XML.format(number, width))


def yolo(root: Path, width: int = 20) -> Path:
    return yolo_set(root, {"train/a": f"0 0.25 0.25 0.{width} 0.5"})


@pytest.mark.parametrize(
    ("make", "image", "images"),
    [
        (coco, "train/a.jpg", ("2 listed, 2 present", "2 listed, 1 present")),
        (voc, "JPEGImages/1.jpg", ("3 listed, 3 present", "3 listed, 2 present")),
    ],
)
def test_a_copy_and_what_differs(tmp_path, make: Callable[..., Path], image: str, images) -> None:
    one, two, other = make(tmp_path / "one"), make(tmp_path / "two"), make(tmp_path / "other", 21)
    found = fingerprint(one)
    assert found == fingerprint(two) and found["train images"] == images[0]
    changed = {key for key, value in fingerprint(other).items() if value != found[key]}
    assert changed == {"train annotations", "val annotations"}
    (two / image).unlink()
    missing = fingerprint(two)
    assert {**missing, "train images": images[0]} == found and missing["train images"] == images[1]


def test_labels_of_yolo(tmp_path) -> None:
    one, two, other = yolo(tmp_path / "one"), yolo(tmp_path / "two"), yolo(tmp_path / "other", 21)
    found = fingerprint(one)
    assert found == fingerprint(two)
    assert {key for key, value in fingerprint(other).items() if value != found[key]} == {"train annotations"}


def test_files_that_a_config_names(tmp_path) -> None:
    root = coco(tmp_path / "a")
    file = root / "annotations" / "instances_train.json"
    split = Split("train", file, root / "train")
    assert fingerprint_of_files([split]) == {
        "train annotations": f"1 boxes, {digest_of_file(file)}", "train images": "2 listed, 2 present",
    }  # fmt: skip
    file.write_text("abc")  # sha256 of abc: ba7816bf 8f01cfea ...
    assert digest_of_file(file) == "3 bytes, sha256 ba7816bf8f01"
    shutil.rmtree(root)
    with pytest.raises(UserError, match="instances_train.json"):
        fingerprint_of_files([split])
