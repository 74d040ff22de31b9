"""Records of a data set and of the results of its check: plain and picklable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmcv_overrides.printable import printable

MAX_LINES = 25  # one screen
_MAX_CLASSES = 10
_EXAMPLES = 3
_LONGEST = 300  # characters of an example; a box may be a list of any length

# Possible faults of a split, in the order of the report; the flag: correcting it changes the annotations.
FAULTS: Mapping[str, tuple[str, bool]] = {
    "encoding": (
        "annotation files are in another encoding than UTF-8: read as the one shown",
        True,
    ),
    "image_ids": ("image ids are text, fractions or outside 0 to 2^53: replaced by whole numbers", True),
    "category_ids": ("category ids are text, fractions or outside 0 to 2^53: replaced by whole numbers", True),
    "linked_ids": ("ids in annotations are written otherwise than in the image or category: read as the same", True),
    "number_names": ("class names are numbers: read as text", True),
    "unnamed_categories": ("categories have neither a name nor annotations: left out", True),
    "unnamed_objects": ("objects have no class name: left out", True),
    "as_text": ("values of annotations are written as text: read as numbers", True),
    "from_polygon": ("annotations have no box: taken from their polygon or mask", True),
    "renamed_files": (
        "file names are of another folder, separator or case: the only file that fits is used",
        True,
    ),
    "missing_files": ("images have no file: left out", True),
    "unreadable_images": ("images cannot be read: left out", True),
    "other_frame": (
        "images have another size than annotated, and their boxes do not tell whether they were resized, cropped or "
        "turned: left out",
        True,
    ),
    "turned_boxes": ("images are turned by their EXIF orientation, their boxes are not: boxes turned likewise", True),
    "scaled_boxes": ("images have another size than annotated, of the same shape: boxes scaled to them", True),
    "corrected_sizes": (
        "sizes in the annotations are not those of the images, but the boxes fit these: sizes corrected",
        True,
    ),
    "unsure_orientation": (
        "images are turned by their EXIF orientation: their boxes are taken as drawn on the turned image",
        False,
    ),
    "missing_xml": ("listed images have no annotation file: left out", True),
    "unreadable_xml": ("annotation files cannot be read: their images are left out", True),
    "label_class": ("lines of label files have a class index that the class names do not cover: left out", True),
    "label_columns": ("lines of label files have neither the numbers of a box nor those of a polygon: left out", True),
    "label_numbers": ("lines of label files hold something else than finite numbers: left out", True),
    "label_range": ("lines of label files have numbers outside 0 to 1, or no width or height: left out", True),
    "label_twice": ("lines of label files are repeated: counted once", True),
    "label_extra": ("lines of label files have a sixth number, a confidence: it is not used", False),
    "no_label_file": ("images have no label file: used as background", False),
    "label_strays": ("label files have no image of their name: not read", False),
    "ambiguous_images": ("images share their id with another file: left out with their boxes", True),
    "several_files": ("images have several files of their name: left out", True),
    "repeated_images": ("images are listed twice: counted once", True),
    "duplicate_file_names": (
        "files are listed under several image ids: kept, but their boxes are split",
        False,
    ),
    "sizes_read": ("images had no width or height: read from the files", True),
    "lost_boxes": ("boxes belong to images that were left out", True),
    "unknown_image": ("annotations name an unknown image id: dropped", True),
    "unknown_category": ("annotations name an unknown category id: dropped", True),
    "other_class": ("annotations are of other classes: left out", True),
    "degenerate": ("boxes without area (w or h <= 0, or no number): dropped", True),
    "outside": ("boxes wholly outside their image: dropped", True),
    "clipped": ("boxes reached outside their image: clipped", True),
    "tiny": ("boxes thinner than 1 px: evaluated, but not trained on", False),
    "thin_images": ("images are thinner than 2 px or over 100 times longer than wide: kept", False),
    "duplicate_annotation_ids": ("annotation ids are repeated or no whole numbers above 0: all renumbered", True),
    "merged_categories": ("categories share their name with another: merged", True),
    "filled": ("annotations lacked area or iscrowd: filled in", True),
    "difficult": ("boxes are marked difficult: not trained on, ignored in evaluation", True),
}


@dataclass(frozen=True)
class Split:
    """One part of a data set: a COCO annotation file, and the folder that its file names are relative to."""

    name: str
    ann_file: Path
    img_dir: Path


class FaultLog:
    """Counts faults by kind and keeps the first few examples of each."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(FAULTS, 0)
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str = "", count: int = 1) -> None:
        """Count a fault of a kind in FAULTS."""
        self.counts[kind] += count
        kept = self.examples.setdefault(kind, [])
        if example and len(kept) < _EXAMPLES:
            kept.append(example[:_LONGEST])

    @property
    def corrected(self) -> bool:
        """Whether the annotations to use differ from those in the file."""
        return any(count and FAULTS[kind][1] for kind, count in self.counts.items())


def fault_lines(name: str, counts: Mapping[str, int], examples: Mapping[str, list[str]]) -> list[str]:
    """One line for each kind of fault of the split ``name``, with its first examples, printable."""
    lines = []
    for kind, (text, _) in FAULTS.items():
        if counts[kind]:
            shown = "; ".join(examples.get(kind, ()))
            lines.append(f"{name}: {counts[kind]} {text}" + (f" ({shown})" if shown else ""))
    return [printable(line) for line in lines]


@dataclass
class SplitReport:
    """What one split contains.

    `counts` has images, annotated, without_objects, boxes, trainable, crowd, images_in_file, boxes_in_file and an entry
    for each kind in FAULTS.
    """

    name: str
    source: Path  # the user's file: COCO json, the list of a VOC or YOLO split, or its folder
    ann_file: Path  # the COCO json to use: the source, or its cleaned copy
    img_dir: Path
    counts: dict[str, int]
    boxes_per_class: dict[str, int]
    examples: dict[str, list[str]] = field(default_factory=dict)

    def summary(self) -> str:
        """One line: images, boxes and file."""
        c = self.counts
        crowd = f", {c['crowd']} crowd or difficult" if c["crowd"] else ""
        total = "" if c["boxes"] + c["crowd"] == c["boxes_in_file"] else f" of {c['boxes_in_file']}"
        return (
            f"{self.name}: {c['images']} images ({c['without_objects']} without objects), "
            f"{c['boxes']}{total} boxes{crowd} <- {self.source}"
        )

    def faults(self) -> list[str]:
        """One line for each kind of fault, with its first examples, printable."""
        return fault_lines(self.name, self.counts, self.examples)


@dataclass
class DataReport:
    """What a check found in both splits; `lines()` is for people, `to_dict()` for programs."""

    classes: tuple[str, ...]
    splits: dict[str, SplitReport]
    layout: str = "COCO"
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Counts by split."""
        return {name: split.counts for name, split in self.splits.items()}

    def _class_lines(self) -> list[str]:
        per_split = [split.boxes_per_class for split in self.splits.values()]
        shown = self.classes if len(self.classes) <= _MAX_CLASSES else self.classes[: _MAX_CLASSES - 1]
        width = max(len(name) for name in shown)
        lines = [f"{n:<{width}}  " + " / ".join(str(boxes[n]) for boxes in per_split) for n in shown]
        rest = self.classes[len(shown) :]
        if rest:
            sums = " / ".join(str(sum(boxes[n] for n in rest)) for boxes in per_split)
            lines.append(f"{len(rest)} more classes  {sums}")
        return lines

    def faults_of(self, name: str) -> list[str]:
        """The lines about the faults of one split, and the warnings about it."""
        about = [printable(warning) for warning in self.warnings if warning.startswith(f"{name}: ")]
        return self.splits[name].faults() + about

    def lines(self) -> list[str]:
        """The report for people, at most MAX_LINES lines."""
        lines = [f"data: {self.layout} layout, {len(self.classes)} classes"]
        lines += [f"  {split.summary()}" for split in self.splits.values()]
        lines += [f"  boxes per class ({' / '.join(self.splits)}):"]
        lines += [f"    {line}" for line in self._class_lines()]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  ! {line}" for split in self.splits.values() for line in split.faults()]
        lines += [f"  ! {warning}" for warning in self.warnings]
        if len(lines) > MAX_LINES:
            cut = len(lines) - MAX_LINES + 1
            lines[MAX_LINES - 1 :] = [f"  ... {cut} more lines: `fcos-train check-data PATH --json FILE` has all"]
        return [printable(line) for line in lines]

    def to_dict(self) -> dict:
        """The report as plain values for JSON."""
        splits = {
            name: {
                "source": str(s.source),
                "img_dir": str(s.img_dir),
                "counts": s.counts,
                "boxes_per_class": s.boxes_per_class,
                "examples": s.examples,
            }
            for name, s in self.splits.items()
        }
        return {
            "layout": self.layout,
            "classes": list(self.classes),
            "splits": splits,
            "warnings": self.warnings,
            "notes": self.notes,
        }


@dataclass(frozen=True)
class DataSpec:
    """A data set ready for training: clean COCO annotation files that list `classes` in order.

    Attributes:
        test: the test split, where it was asked for and there is one; `val` itself if that is the test split.
    """

    layout: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    report: DataReport
    test: Split | None = None
