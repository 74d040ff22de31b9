"""Names and category ids of the classes a detection's label stands for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fcos_train.deploy.parts.files import some, stem
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable, require_names
from mmcv_overrides.regular_files import read_json

COCO_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
# COCO numbers 91 categories and annotates 80 of them.
_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
COCO_IDS = tuple(i for i in range(1, 92) if i not in _UNUSED)


@dataclass(frozen=True)
class Truth:
    """What the annotations say of names: class name -> category id, stem of an image's file -> image id."""

    path: Path
    categories: dict[str, int]
    images: dict[str, int]

    def image_id(self, name: str) -> int:
        if name not in self.images:
            raise UserError(
                f"{self.path} has no image named {printable(name)}.*; it has {some(list(self.images), 3)}. "
                "Results and annotations are of different images"
            )
        return self.images[name]

    def category_id(self, name: str) -> int:
        if name not in self.categories:
            raise UserError(
                f"{self.path} has no category named '{printable(name)}'; it has {some(list(self.categories), 8)}. "
                "Results and annotations are of different classes"
            )
        return self.categories[name]


def read_truth(path: str | Path) -> Truth:
    """Names and ids of a COCO annotation file.

    Raises:
        UserError: the file is absent or not COCO annotations, or two images share a stem.
    """
    path = Path(path)
    try:
        data = read_json(path, "annotation file")
        require_names([entry["name"] for entry in data["categories"]], str(path))
        categories = {entry["name"]: int(entry["id"]) for entry in data["categories"]}
        images: dict[str, int] = {}
        for entry in data["images"]:
            name = stem(entry["file_name"])
            if name in images:
                raise UserError(f"{path}: two images are named {printable(name)}.*, their results cannot be told apart")
            images[name] = int(entry["id"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is not a COCO annotation file: {printable(repr(error))}") from error
    return Truth(path, categories, images)


def coco_truth() -> Truth:
    """The 80 classes of COCO with their ids of 91, and no images: stems are ids."""
    return Truth(Path("COCO"), dict(zip(COCO_NAMES, COCO_IDS, strict=True)), {})


def find_annotations(path: str | Path) -> Path:
    """The annotation file itself, or the one of the validation images in a folder.

    Raises:
        UserError: a folder without one.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    for name in ("instances_val2017.json", "annotations/instances_val2017.json"):
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path} holds neither instances_val2017.json nor annotations/instances_val2017.json")
