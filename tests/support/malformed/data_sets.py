"""Annotation files and images with content that nobody can use. What can be left out is left out and counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.malformed import Case, Room
from tests.support.special_files import bomb

FORGED = "x\n2026-01-01 12:00:00,000 - mmdet - INFO - bbox_mAP: 0.9990\x1b[31m"


def put(key: str, **values: Any) -> Callable[[dict], Any]:
    """A change of the first entry of a list."""
    return lambda coco: coco[key][0].update(values)


def drop(key: str, field: str) -> Callable[[dict], Any]:
    return lambda coco: coco[key][0].pop(field)


# change of the annotations -> what the message must have
REFUSED: dict[str, tuple[Callable[[dict], Any], str]] = {
    "file_name a number": (put("images", file_name=7), "the file_name of images[0] is 7"),
    "file_name null": (put("images", file_name=None), "the file_name of images[0] is null"),
    "file_name a list": (put("images", file_name=["a"]), "the file_name of images[0]"),
    "no file_name": (drop("images", "file_name"), "images[0] has no file_name"),
    "image id a list": (put("images", id=[1]), "the id of images[0] is [1]"),
    "image id a dict": (put("images", id={"a": 1}), "the id of images[0]"),
    "image id NaN": (put("images", id=math.nan), "the id of images[0] is NaN"),
    "no image id": (drop("images", "id"), "images[0] has no id"),
    "category id a list": (put("categories", id=[1]), "the id of categories[0] is [1]"),
    "category name null": (put("categories", name=None), "the name of categories[0] (id 1) is null"),
    "category name a list": (put("categories", name=["a"]), "the name of categories[0]"),
    "class name with control characters": (put("categories", name=FORGED), r"x\n2026"),
    "two names of one category id": (put("categories", id=2), "category id 2 is both"),
    "an annotation that is a list": (
        lambda c: c["annotations"].insert(0, [1]),
        "annotations holds entries that are not",
    ),
    "images a text": (lambda c: c.update(images="abc"), "it has no list named images"),
    "annotations null": (lambda c: c.update(annotations=None), "it has no list named annotations"),
    "no categories": (lambda c: c.pop("categories"), "it has no list named categories"),
    "no image at all": (lambda c: c.update(images=[]), "instances_train2017.json"),
    "no box at all": (lambda c: c.update(annotations=[]), "no usable image with a box"),
    "all file names absent": (
        lambda c: [image.update(file_name=f"gone{image['id']}.jpg") for image in c["images"]],
        "no image of",
    ),
    "file_name that leaves the folder": (put("images", file_name="../../../etc/passwd"), "etc/passwd"),
    "file_name a device": (put("images", file_name="/dev/zero"), "/dev/zero"),
}
# change of the annotations -> what the report must have
COUNTED: dict[str, tuple[Callable[[dict], Any], str]] = {
    "image_id a list": (put("annotations", image_id=[1]), "1 "),
    "image_id null": (put("annotations", image_id=None), "1 "),
    "image_id of no image": (put("annotations", image_id=999_999), "999999"),
    "category_id a list": (put("annotations", category_id=[1]), "category id [1]"),
    "category_id a text": (put("annotations", category_id="seven"), "seven"),
    "category_id null": (put("annotations", category_id=None), "category id null"),
    "annotation id a list": (put("annotations", id=[7]), "1 "),
    "box with NaN": (put("annotations", bbox=[1, 1, math.nan, 5]), "dropped"),
    "box with infinity": (put("annotations", bbox=[1, 1, math.inf, 5]), "dropped"),
    "box of 1e308": (put("annotations", bbox=[1, 1, 1e308, 5]), "dropped"),
    "box of width 0": (put("annotations", bbox=[1, 1, 0, 5]), "dropped"),
    "box of negative width": (put("annotations", bbox=[1, 1, -4, 5]), "dropped"),
    "box of three numbers": (put("annotations", bbox=[1, 1, 4]), "dropped"),
    "box null": (put("annotations", bbox=None), "dropped"),
    "box a text": (put("annotations", bbox="here"), "dropped"),
    "box of texts": (put("annotations", bbox=["a", "b", "c", "d"]), "dropped"),
    "box outside the image": (put("annotations", bbox=[5000, 5000, 4, 4]), "outside"),
    "area NaN": (put("annotations", area=math.nan), "area"),
    "iscrowd a list": (put("annotations", iscrowd=[1]), "iscrowd"),
    "width 0": (put("images", width=0), "1 "),
    "height a text": (put("images", height="tall"), "1 "),
    "one absent file": (put("images", file_name="gone.jpg"), "gone.jpg"),
}
TEXTS = {
    "empty": (b"", "instances_train2017.json"),
    "cut short": (b'{"images": [{"id": 1', "instances_train2017.json"),
    "nested too deeply": (b"[" * 200_000, "instances_train2017.json"),
    "a number": (b"7", "is not a COCO detection file"),
    "no text": (b"\x80\x81\xff\xfe\x00", "instances_train2017.json"),
    "a pickle": (b"\x80\x04cbuiltins\nopen\n(X\x01\x00\x00\x00aX\x01\x00\x00\x00wtR.", "instances_train2017.json"),
}
IMAGES: dict[str, bytes] = {
    "empty": b"",
    "text": b"not a picture",
    "a GIF that ends after its header": b"GIF89a",
    "HTML": b"<!doctype html><html></html>",
    "zeros": b"\0" * 4096,
    "a pickle": b"\x80\x04cbuiltins\nopen\n.",
}


def _check(change: Callable[[dict], Any], split: str = "train") -> Callable[[Room], list[str]]:
    def command(room: Room) -> list[str]:
        room.edit(change, split)
        return ["check-data", str(room.data)]

    return command


def _text(content: bytes) -> Callable[[Room], list[str]]:
    def command(room: Room) -> list[str]:
        (room.data / "annotations" / "instances_train2017.json").write_bytes(content)
        return ["check-data", str(room.data)]

    return command


def first_image(room: Room) -> Path:
    return room.data / "train2017" / "shapes_000001.jpg"


def _image(write: Callable[[Path], Any]) -> Callable[[Room], list[str]]:
    def command(room: Room) -> list[str]:
        first_image(room).unlink()
        write(first_image(room))
        return ["check-data", str(room.data), "--decode"]

    return command


def _halved(room: Room) -> list[str]:
    content = first_image(room).read_bytes()
    first_image(room).write_bytes(content[: len(content) // 40])
    return ["check-data", str(room.data), "--decode"]


def _all_broken(room: Room) -> list[str]:
    for path in (room.data / "train2017").iterdir():
        path.write_bytes(b"x")
    return room.train(data=room.data)


def _trained(change: Callable[[dict], Any], *words: str, config: str) -> Callable[[Room], list[str]]:
    def command(room: Room) -> list[str]:
        room.edit(change)
        return room.train(*words, config=config, data=room.data)

    return command


def _only_the_last_has_boxes(coco: dict) -> None:
    last = coco["images"][-1]["id"]
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] == last]


def _nothing_but_nan(coco: dict) -> None:
    """Every box of all images but the last one."""
    last = coco["images"][-1]["id"]
    for one in coco["annotations"]:
        if one["image_id"] != last:
            one["bbox"] = [math.nan] * 4


HEADS = {"FCOS": "tests/support/exact.py", "FSAF": "tests/support/exact_fsaf.py"}
TRAINED = [
    Case(
        f"{head} trains on {what}",
        _trained(change, "--keep-empty", "--batch-size", "2", config=config),
        ("Epoch [1][1/",),
        status=0,
        slow=head == "FCOS",
    )
    for what, change in (
        ("batches of background alone", _only_the_last_has_boxes),
        ("images whose boxes are all NaN", _nothing_but_nan),
    )
    for head, config in HEADS.items()
]
CASES = [
    *(Case(f"annotations with {name}", _check(change), (says,)) for name, (change, says) in REFUSED.items()),
    *(Case(f"annotations with {name}", _check(change), (says,), status=0) for name, (change, says) in COUNTED.items()),
    *(Case(f"annotation file that is {name}", _text(content), (says,)) for name, (content, says) in TEXTS.items()),
    *TRAINED,
]
IMAGE_CASES = [
    *(
        Case(f"image that is {name}", _image(lambda path, c=content: path.write_bytes(c)), ("shapes_000001.jpg",))
        for name, content in IMAGES.items()
    ),
    Case("image cut short", _halved, ("shapes_000001.jpg",)),
    Case("image that is a decompression bomb", _image(bomb), ("shapes_000001.jpg", "pixels are more than the limit")),
    Case("image that is a folder", _image(Path.mkdir), ("shapes_000001.jpg",)),
    Case("image that is a named pipe", _image(lambda path: __import__("os").mkfifo(path)), ("shapes_000001.jpg",)),
    Case("image that is a broken link", _image(lambda path: path.symlink_to("gone")), ("shapes_000001.jpg",), status=0),
    Case("image that is a link to a device", _image(lambda path: path.symlink_to("/dev/zero")), ("/dev/zero",)),
    Case("image that is an array", _image(lambda path: np.save(path.open("wb"), np.zeros(3))), ("shapes_000001.jpg",)),
    Case("images that are all broken", _all_broken, ("only 0 of the 8 images",)),
]
