"""Boxes of another convention than COCO's x, y, width, height in px: refused or pointed out.

Such files are read without an error, and a model then trains on wrong boxes or on none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fcos_train.data.frames import Files, is_box
from fcos_train.data.turn import Size
from mmcv_overrides.errors import UserError
from mmcv_overrides.json_values import Id, same_id

FRACTION = 1.5  # px from the corner of the image; fractions end at 1, and some reach a little further
ENOUGH, SHARE, FAR = 10, 0.2, 1.1  # boxes; share of them that reach outside, by this factor, for a certain fault
PERCENT, NEAR_PERCENT = 101, 90  # the largest far edge of boxes in per cent
WIDE = 200  # px; images on which boxes in px would reach beyond 101

Entry = tuple[Sequence[float], Size]  # x, y, width, height; size of the image


def examine_units(raw: dict, files: Files, name: str, where: str) -> list[str]:
    """Warnings about boxes that seem to be of another convention.

    Args:
        raw: annotations in COCO form. files: the image files of the split.
        name: of the split. where: the file of the annotations, for messages.

    Raises:
        UserError: they certainly are: fractions of the image, or corners.
    """
    boxes = list(_boxes(raw, files))
    if not boxes:
        return []
    _require_pixels(boxes, name, where)
    if (outside := _corners(boxes)) is not None:
        text = (
            f"{name}: {outside} of {len(boxes)} boxes reach far outside their image, and all boxes lie inside if they "
            f"are read as x1, y1, x2, y2: bbox in {where} seems to hold corners, COCO's is x, y, width, height"
        )
        if len(boxes) >= ENOUGH and outside >= SHARE * len(boxes):
            raise UserError(f"{text}. Replace x2 by x2 - x1 and y2 by y2 - y1")
        return [text]
    far = max(max(x + w, y + h) for (x, y, w, h), _ in boxes)
    if len(boxes) >= ENOUGH and NEAR_PERCENT <= far <= PERCENT and all(min(size) >= WIDE for _, size in boxes):
        return [
            f"{name}: all boxes end within {far:g} px of the corner of their image, though all images are larger: "
            "they may be per cent of the image; COCO's boxes are px"
        ]
    return []


def _boxes(raw: dict, files: Files) -> Iterator[Entry]:
    """Boxes with the size of their image; those that are moved later are left out."""
    sizes: dict[Id | None, Size] = {}
    for image in raw["images"]:
        fit, size = files.fits.get(image["file_name"]), files.size(image)
        if size is not None and (fit is None or fit.move is None and fit.usable):
            sizes[same_id(image["id"])] = size
    for annotation in raw["annotations"]:
        size = sizes.get(same_id(annotation.get("image_id")))
        if size is not None and is_box(annotation.get("bbox")):
            yield annotation["bbox"], size


def _require_pixels(boxes: Iterable[Entry], name: str, where: str) -> None:
    """Refuse boxes that all lie within a pixel of the corner of their image."""
    if all(min(x, y) >= -FRACTION and max(x + w, y + h) <= FRACTION < min(size) for (x, y, w, h), size in boxes):
        raise UserError(
            f"{name}: all boxes of {where} lie within {FRACTION} px of the corner of their image: they look like "
            "fractions of the image (0 to 1); write px: multiply x and width by the width of the image, y and height "
            "by its height"
        )


def _corners(boxes: Sequence[Entry]) -> int | None:
    """How many boxes reach far outside, if all of them lie inside once they are read as corners."""
    outside = 0
    for (x, y, w, h), (width, height) in boxes:
        if not (x < w <= width + 1 and y < h <= height + 1):
            return None
        outside += x + w > FAR * width or y + h > FAR * height
    return outside or None
