"""Makes a COCO annotation file safe to train on and counts everything that was corrected.

mmdet does not check COCO files: a missing `area` is a KeyError, a repeated annotation id assigns boxes to the wrong
image, pycocotools counts an annotation with id 0 as never found, and labels are numbered in the order of the file's
categories whatever the order of the given class names. `clean` prevents all of this.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypeGuard

from fcos_train.data.frames import THIN, Files, is_box, stated_size
from fcos_train.data.spec import FaultLog, Split, SplitReport
from mmcv_overrides.errors import UserError
from mmcv_overrides.json_values import is_plain
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import is_number

CLIP_TOLERANCE = 0.1  # px; COCO's own boxes exceed the border by rounding, which is not a fault
_NO_IMAGE = ("missing_xml", "unreadable_xml", "several_files")  # faults of listed images that are not in the raw dict
# Faults of objects that are not in the raw dict.
_NO_BOX = ("unnamed_objects", "label_class", "label_columns", "label_numbers", "label_range", "label_twice")
MAX_LOST = 0.5  # share of unusable images above which it is an error


@dataclass
class Cleaned:
    """A split's annotations in COCO form, whether they differ from the file, and the report on them."""

    data: dict
    changed: bool
    report: SplitReport


def clean(raw: dict, split: Split, classes: tuple[str, ...], files: Files, log: FaultLog | None = None) -> Cleaned:
    """Drop, clip and renumber annotations that would cause errors or wrong results.

    The cleaned file lists exactly `classes`, in this order, including those without a box, so that labels agree between
    splits.

    Args:
        raw: annotations in COCO form.
        split: name, file and folder of the split.
        classes: class names.
        files: what is known of the image files.
        log: faults that were found earlier, while converting.

    Raises:
        UserError: more than half of the images are unusable.
    """
    log = log or FaultLog()
    images_in_file = len(raw["images"]) + sum(log.counts[kind] for kind in _NO_IMAGE)
    boxes_in_file = len(raw["annotations"]) + sum(log.counts[kind] for kind in _NO_BOX)
    categories, to_id = _categories(raw, split, classes, log)
    images, lost = _images(raw, files, log)
    if images_in_file and len(images) + log.counts["repeated_images"] < images_in_file * (1 - MAX_LOST):
        raise UserError(_too_many_lost(split, images_in_file, len(images), log))
    annotations = _annotations(raw["annotations"], images, files, lost, to_id, log)
    _renumber(annotations, log)

    data = dict(raw, images=list(images.values()), annotations=annotations, categories=categories)
    same_categories = [(c["id"], c["name"]) for c in raw["categories"]] == [(c["id"], c["name"]) for c in categories]
    counts, per_class = _count(data, images_in_file, boxes_in_file)
    report = SplitReport(
        split.name,
        split.ann_file,
        split.ann_file,
        split.img_dir,
        {**counts, **log.counts},
        per_class,
        log.examples,
    )
    return Cleaned(data, log.corrected or not same_categories, report)


def _too_many_lost(split: Split, total: int, kept: int, log: FaultLog) -> str:
    reasons = "; ".join(
        f"{log.counts[kind]} {what}, e.g. {printable(log.examples[kind][0])}"
        for kind, what in (
            ("missing_files", f"have no file in {split.img_dir}"),
            ("unreadable_images", "cannot be read"),
            (
                "other_frame",
                "have another size than annotated, and their boxes do not tell whether they were resized, cropped or "
                "turned (correct their width, height and boxes in the annotations, or use the images as annotated)",
            ),
            ("missing_xml", "have no annotation file"),
            ("unreadable_xml", "have an annotation file that cannot be read"),
            ("several_files", "have several files of their name"),
            ("ambiguous_images", "share their id with another file"),
        )
        if log.counts[kind]
    )
    return (
        f"{split.name}: only {kept} of the {total} images of {split.ann_file} can be used: {reasons}. "
        "Check that the images are complete and belong to these annotations"
    )


def _categories(raw: dict, split: Split, classes: tuple[str, ...], log: FaultLog) -> tuple[list[dict], dict]:
    """The categories to write, and the new id for every id of the file (None: not among `classes`)."""
    by_id: dict = {}
    first: dict[str, dict] = {}
    for category in raw["categories"]:
        known = by_id.setdefault(category["id"], category["name"])
        if known != category["name"]:
            raise UserError(
                f"{split.ann_file}: category id {category['id']} is both '{known}' and "
                f"'{category['name']}'; give every category its own id"
            )
        if first.setdefault(category["name"], category)["id"] != category["id"]:
            log.add("merged_categories", category["name"])
    spare = max((i for i in by_id if isinstance(i, int)), default=0)
    categories = []
    for name in classes:
        if name not in first:
            spare += 1
            first[name] = {"id": spare, "name": name}
        categories.append(first[name])
    known = set(classes)
    to_id = {i: first[name]["id"] if name in known else None for i, name in by_id.items()}
    return categories, to_id


def _images(raw: dict, files: Files, log: FaultLog) -> tuple[dict, set]:
    """Usable images by id, and the ids of the others."""
    by_id: dict = {}
    ambiguous = set()
    for image in raw["images"]:
        kept = by_id.setdefault(image["id"], image)
        if kept is image:
            continue
        if kept["file_name"] == image["file_name"]:
            log.add("repeated_images", image["file_name"])
            continue
        if image["id"] not in ambiguous:
            ambiguous.add(image["id"])
            log.add("ambiguous_images", f"id {image['id']}: {kept['file_name']}")
        log.add("ambiguous_images", f"id {image['id']}: {image['file_name']}")
    lost = set(ambiguous)
    for key, image in by_id.items():
        if key not in ambiguous and not _readable(image, files, log):
            lost.add(key)
    usable = {key: image for key, image in by_id.items() if key not in lost}
    for name, count in Counter(image["file_name"] for image in usable.values()).items():
        if count > 1:
            log.add("duplicate_file_names", name)
    return usable, lost


def _readable(image: dict, files: Files, log: FaultLog) -> bool:
    """Whether the image can be used; then its size becomes that of the image as it is loaded."""
    name, size = image["file_name"], files.size(image)
    fit = files.fits.get(name)
    if name in files.absent:
        log.add("missing_files", name)
    elif size is None:
        log.add("unreadable_images", f"{name}: {files.headers.get(name)}")
    elif fit is not None and fit.fault:
        log.add(fit.fault, fit.example)
    if size is None or (fit is not None and not fit.usable):
        return False
    if stated_size(image) is None:
        log.add("sizes_read", name)
    if min(size) * THIN < max(size) or min(size) < 2:
        log.add("thin_images", f"{name}: {size[0]}x{size[1]}")
    image["width"], image["height"] = size
    return True


def _annotations(raw: list, images: dict, files: Files, lost: set, to_id: dict, log: FaultLog) -> list[dict]:
    kept = []
    for annotation in raw:
        image_id, category = annotation.get("image_id"), annotation.get("category_id")
        if image_id not in images:
            kind = "lost_boxes" if image_id in lost else "unknown_image"
            log.add(kind, "" if image_id in lost else f"image id {image_id}")
        elif category not in to_id:
            log.add("unknown_category", f"category id {category} in {images[image_id]['file_name']}")
        elif to_id[category] is None:
            log.add("other_class")
        elif (corrected := _annotation(annotation, images[image_id], files, log)) is not None:
            corrected["category_id"] = to_id[category]
            kept.append(corrected)
    return kept


def _annotation(annotation: dict, image: dict, files: Files, log: FaultLog) -> dict | None:
    """The annotation with a box inside its image, an area > 0 and a crowd flag; None if it has no box."""
    box = annotation.get("bbox")
    where = f"{image['file_name']} {box}"
    if box is None or not is_box(box):
        log.add("degenerate", where)
        return None
    fit = files.fits.get(image["file_name"])
    if fit is not None and fit.move is not None:
        annotation = fit.move.annotation(annotation)
    x, y, w, h = annotation["bbox"]
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, image["width"]), min(y + h, image["height"])
    if x2 <= x1 or y2 <= y1:
        log.add("outside", where)
        return None
    corrected = dict(annotation)
    if max(x1 - x, y1 - y, x + w - x2, y + h - y2) > CLIP_TOLERANCE:
        log.add("clipped", where)
        x, y, w, h = x1, y1, x2 - x1, y2 - y1
        corrected["bbox"] = [x, y, w, h]
        corrected["area"] = min(corrected["area"], w * h) if _is_area(corrected.get("area")) else w * h
    if w < 1 or h < 1:
        log.add("tiny", where)
    if not _is_area(corrected.get("area")) or not isinstance(corrected.get("iscrowd"), int):
        log.add("filled")
        corrected["area"] = corrected["area"] if _is_area(corrected.get("area")) else w * h
        corrected["iscrowd"] = int(isinstance(corrected.get("iscrowd"), int) and corrected["iscrowd"])
    return corrected


def _is_area(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and is_number(value) and value > 0


def _renumber(annotations: list[dict], log: FaultLog) -> None:
    """Number annotations from 1 if their ids repeat or are below 1 (pycocotools takes id 0 for no match)."""
    seen: set = set()
    for annotation in annotations:
        key = annotation.get("id")
        if not is_plain(key) or key == 0 or key in seen:
            log.add("duplicate_annotation_ids", f"id {key}")
        seen.add(key)
    if log.counts["duplicate_annotation_ids"]:
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number


def _count(data: dict, images_in_file: int, boxes_in_file: int) -> tuple[dict[str, int], dict[str, int]]:
    boxes = [a for a in data["annotations"] if not a["iscrowd"] and not a.get("ignore")]
    annotated = len({a["image_id"] for a in boxes})
    per_id = Counter(a["category_id"] for a in boxes)
    counts = {
        "images": len(data["images"]),
        "annotated": annotated,
        "without_objects": len(data["images"]) - annotated,
        "boxes": len(boxes),
        "trainable": sum(a["bbox"][2] >= 1 and a["bbox"][3] >= 1 for a in boxes),
        "crowd": len(data["annotations"]) - len(boxes),
        "images_in_file": images_in_file,
        "boxes_in_file": boxes_in_file,
    }
    return counts, {c["name"]: per_id[c["id"]] for c in data["categories"]}
