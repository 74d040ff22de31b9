"""Class names and category ids, and image ids, of a COCO annotation file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fcos_train.data.coco_names import COCO_IDS, COCO_NAMES
from fcos_train.deploy.parts.files import some, stem
from mmcv_overrides.errors import UserError
from mmcv_overrides.json_values import Id, plain_id
from mmcv_overrides.printable import printable, require_names
from mmcv_overrides.regular_files import read_json


@dataclass(frozen=True)
class Truth:
    """Names and ids of a COCO annotation file.

    Attributes:
        path: the annotation file.
        categories: class name -> category id.
        images: stem of an image file -> image id.
    """

    path: Path
    categories: dict[str, Id]
    images: dict[str, Id]

    def image_id(self, name: str) -> Id:
        """Id of the image whose file has this stem.

        Raises:
            UserError: the annotations have no such image.
        """
        if name not in self.images:
            raise UserError(
                f"{self.path} has no image named {printable(name)}.*; it has {some(list(self.images), 3)}. "
                "Results and annotations are of different images"
            )
        return self.images[name]

    def category_id(self, name: str) -> Id:
        """Id of the class of this name.

        Raises:
            UserError: the annotations have no such class.
        """
        if name not in self.categories:
            raise UserError(
                f"{self.path} has no category named '{printable(name)}'; it has {some(list(self.categories), 8)}. "
                "Results and annotations are of different classes"
            )
        return self.categories[name]


def read_truth(path: str | Path) -> Truth:
    """Read names and ids of a COCO annotation file.

    Raises:
        UserError: the file is absent or not COCO annotations, or two images share a stem.
    """
    path = Path(path)
    try:
        data = read_json(path, "annotation file")
        require_names([entry["name"] for entry in data["categories"]], str(path))
        categories = {entry["name"]: _id(entry["id"]) for entry in data["categories"]}
        images: dict[str, Id] = {}
        for entry in data["images"]:
            name = stem(entry["file_name"])
            if name in images:
                raise UserError(f"{path}: two images are named {printable(name)}.*, their results cannot be told apart")
            images[name] = _id(entry["id"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is not a COCO annotation file: {printable(repr(error))}") from error
    return Truth(path, categories, images)


def _id(value: object) -> Id:
    found = plain_id(value)
    if found is None:
        raise TypeError("an id must be a number or text")
    return found


def coco_truth() -> Truth:
    """The 80 classes of COCO with their category ids (1 to 90), without images: stems are image ids."""
    return Truth(Path("COCO"), dict(zip(COCO_NAMES, COCO_IDS, strict=True)), {})


def find_annotations(path: str | Path) -> Path:
    """Return ``path`` if it is a file, otherwise the annotation file of the validation images in that folder.

    Raises:
        UserError: the folder has no such file.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    for name in ("instances_val2017.json", "annotations/instances_val2017.json"):
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path} holds neither instances_val2017.json nor annotations/instances_val2017.json")
