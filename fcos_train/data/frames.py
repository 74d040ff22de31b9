"""The frame in which boxes count, where the size in the annotations is not that of the image as it is loaded.

An image is loaded turned by its EXIF orientation. Annotations count in that frame, or in that of the file as it is
stored, or in that of an image of another size, which was resized afterwards. There are two possible frames for each
such image: the annotated one and the loaded one. A box that lies outside one and inside the other decides between them;
the images that differ from their annotations in the same way (a :class:`Kind`) were annotated with one tool, so they
decide together, those of both splits if one split is undecided.

==============================  ==============================  =========================================
the annotated size is           boxes in the annotated frame    undecided
==============================  ==============================  =========================================
that of the file as stored      turned with the image           turned: the size says so
that of the turned image        as they are (loaded frame)      as they are
that of the file, sides swapped left out: turned afterwards     left out
of the same shape               scaled to the file              left out
another                         left out: cropped or stretched  left out
==============================  ==============================  =========================================

Where boxes count in the loaded frame, only the size is corrected. Images that are left out are counted and named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from fcos_train.data.headers import Header, Headers
from fcos_train.data.turn import Box, Move, Size
from mmcv_overrides.json_values import Id, same_id
from mmcv_overrides.regular_files import is_number

NEAR = 2  # px; sizes that differ by no more are the same, rounded differently
SLACK = 0.02  # share of a side by which a box may reach outside its image; drawn carelessly
MAX_SIDE = 2**31  # px; the largest width or height
CLEAR = 0.9  # share of the deciding images that must agree
FEW = 0.2  # share of the images that must speak against a size that fits the turned image
MANY, SMALLER = 20, 1.25  # so many boxes, none outside the smaller of two frames, of which one is so much larger
THIN = 100  # times longer than wide


class Kind(Enum):
    """How the annotated size differs from that of the image as it is loaded."""

    STORED = "that of the file as stored"
    TURNED = "that of the turned image"
    EITHER = "the same before and after turning"
    SWAPPED = "that of the file, sides swapped"
    SCALED = "of the same shape"
    OTHER = "another"


# What the size itself says where no box does.
_UNDECIDED = {Kind.STORED: "annotated", Kind.TURNED: "loaded"}


@dataclass(frozen=True)
class Fit:
    """What becomes of an image whose annotations do not simply fit.

    Attributes:
        size: (width, height) of the image as it is loaded, px.
        fault: kind in FAULTS to count; None: nothing to report.
        example: the image and both sizes, for messages.
        move: of its boxes; None: they stay.
        usable: False: the image is left out.
    """

    size: Size
    fault: str | None = None
    example: str = ""
    move: Move | None = None
    usable: bool = True


@dataclass(frozen=True)
class Files:
    """What is known of the image files of a split, by file name.

    Attributes:
        absent: those that do not exist.
        headers: of the others, or why they cannot be read.
        fits: what becomes of those whose annotations do not simply fit.
    """

    absent: set[str]
    headers: Headers
    fits: Mapping[str, Fit]

    def size(self, image: Mapping) -> Size | None:
        """The (width, height) of the entry of an image as it is loaded, px; None if its file cannot be read."""
        name = image["file_name"]
        header = self.headers.get(name)
        if name in self.fits:
            return self.fits[name].size
        return (stated_size(image) or header.loaded) if isinstance(header, Header) else None


@dataclass
class _Doubt:
    """An image in doubt: the size that its annotations state, and its header."""

    kind: Kind
    stated: Size
    header: Header
    boxes: list[Box] = field(default_factory=list)

    @property
    def annotated(self) -> Size:
        """The frame of the annotations, if it is not the loaded one."""
        return self.header.stored if self.kind in (Kind.TURNED, Kind.EITHER) else self.stated

    def vote(self) -> str | None:
        """The only frame that all boxes lie in, ``annotated`` or ``loaded``; None if they lie in both or in neither."""
        one, other = (all(_inside(b, size) for b in self.boxes) for size in (self.annotated, self.header.loaded))
        return None if one == other else "annotated" if one else "loaded"


def stated_size(image: Mapping) -> Size | None:
    """The (width, height) of an entry of the annotations in px; None if they are no sizes."""
    size = image.get("width"), image.get("height")
    if all(isinstance(side, (int, float)) and 0 < side <= MAX_SIDE for side in size):
        return size  # type: ignore[return-value]  # as checked
    return None


def settle(parts: Sequence[tuple[dict, Headers]]) -> list[dict[str, Fit]]:
    """What becomes of the images of each split whose annotations do not simply fit, by file name.

    Args:
        parts: annotations in COCO form and the headers of their images, by file name, for each split.
    """
    doubts = [_doubts(raw, headers) for raw, headers in parts]
    present = {doubt.kind for found in doubts for doubt in found.values()}
    own = [_votes(found.values()) for found in doubts]
    together = _votes(doubt for found in doubts for doubt in found.values())
    fits = []
    for found, votes in zip(doubts, own, strict=True):
        decided = {kind: votes.get(kind) or together.get(kind) or _UNDECIDED.get(kind) for kind in present}
        fits.append({name: _fit(name, doubt, decided) for name, doubt in found.items()})
    return fits


def misfits(raw: dict, headers: Headers) -> list[str]:
    """Lines about images that cannot be read or whose boxes do not count in the image as it is loaded.

    Args:
        raw: annotations in COCO form; entries of ``annotations`` may be anything.
        headers: of the images, by file name.
    """
    annotations = raw.get("annotations")
    entries = [entry for entry in annotations if isinstance(entry, dict)] if isinstance(annotations, list) else []
    (fits,) = settle([(dict(raw, annotations=entries), headers)])
    unreadable = [f"{name}: {header}" for name, header in headers.items() if not isinstance(header, Header)]
    moved = [fit.example for fit in fits.values() if fit.move is not None or not fit.usable]
    return [
        f"{len(found)} images {what}, e.g. {found[0]}"
        for found, what in (
            (unreadable, "cannot be read: the run stops at them"),
            (moved, "have boxes that do not count in the image as it is loaded (another size, or EXIF orientation)"),
        )
        if found
    ]


def _doubts(raw: dict, headers: Headers) -> dict[str, _Doubt]:
    found: dict[str, _Doubt] = {}
    by_id: dict[Id | None, _Doubt] = {}
    for image in raw["images"]:
        header = headers.get(image["file_name"])
        if not isinstance(header, Header):
            continue
        stated = stated_size(image) or header.loaded
        kind = _kind(stated, header)
        if kind is not None:
            by_id[same_id(image.get("id"))] = found.setdefault(image["file_name"], _Doubt(kind, stated, header))
    if by_id:
        for annotation in raw["annotations"]:
            doubt = by_id.get(same_id(annotation.get("image_id")))
            if doubt is not None and is_box(annotation.get("bbox")):
                doubt.boxes.append(annotation["bbox"])
    return found


def _kind(stated: Size, header: Header) -> Kind | None:
    """How the sizes differ; None if they do not."""
    (width, height), loaded = stated, header.loaded
    if header.orientation > 1 and _near(stated, loaded):
        return Kind.EITHER if header.orientation < 5 or _near(header.stored, loaded) else Kind.TURNED
    if _near(stated, loaded):
        return None
    if header.orientation > 4 and _near(stated, header.stored):
        return Kind.STORED
    if _near((height, width), loaded):
        return Kind.SWAPPED
    same_shape = abs(loaded[0] * height - loaded[1] * width) <= max(width, height, *loaded)  # rounded to a px
    return Kind.SCALED if same_shape else Kind.OTHER


def _near(one: Size, other: Size) -> bool:
    return abs(one[0] - other[0]) <= NEAR and abs(one[1] - other[1]) <= NEAR


def _votes(doubts: Iterable[_Doubt]) -> dict[Kind, str]:
    """The frame in which the boxes of each kind of image count: ``annotated``, ``loaded`` or ``mixed``, if decided."""
    by_kind: dict[Kind, list[_Doubt]] = {}
    for doubt in doubts:
        by_kind.setdefault(doubt.kind, []).append(doubt)
    decided: dict[Kind, str] = {}
    for kind, group in by_kind.items():
        votes = Counter(doubt.vote() for doubt in group if doubt.boxes)
        clear = votes["annotated"] + votes["loaded"]
        if not clear:
            if kind is Kind.SCALED and (frame := _smaller(group)):
                decided[kind] = frame
            continue
        frame, count = max(((f, votes[f]) for f in ("annotated", "loaded")), key=lambda pair: pair[1])
        if kind is Kind.TURNED and votes["annotated"] < FEW * sum(votes.values()):
            decided[kind] = "loaded"  # a few boxes drawn far outside do not outweigh a size that fits
        else:
            decided[kind] = frame if count >= CLEAR * clear else "mixed"
    return decided


def _smaller(group: Sequence[_Doubt]) -> str | None:
    """The smaller frame, if so many boxes lie in both that some would lie outside it if they counted in the larger."""
    if sum(len(doubt.boxes) for doubt in group) < MANY:
        return None
    ratios = [doubt.annotated[0] / doubt.header.loaded[0] for doubt in group]
    if min(ratios) >= SMALLER:
        return "loaded"
    return "annotated" if max(ratios) <= 1 / SMALLER else None


def _fit(name: str, doubt: _Doubt, decided: Mapping[Kind, str | None]) -> Fit:
    kind, header, frame = doubt.kind, doubt.header, decided[doubt.kind]
    orientation = f", EXIF orientation {header.orientation}" if header.orientation > 1 else ""
    example = f"{name}: {_show(header.loaded)}{orientation}, annotated {_show(doubt.stated)}"
    if kind is Kind.EITHER:  # boxes fit in both frames; the tool that turned other images, or did not, decides
        frames = [decided.get(other) for other in (Kind.STORED, Kind.TURNED)]
        frame = next((found for found in ("annotated", "loaded") if found in frames), None)
        if frame is None:
            return Fit(header.loaded, "unsure_orientation", example)
    if frame == "loaded":
        fits = kind in (Kind.TURNED, Kind.EITHER)
        return Fit(header.loaded) if fits else Fit(header.loaded, "corrected_sizes", example)
    if kind in _UNDECIDED and frame == "annotated" or kind is Kind.EITHER:
        return Fit(header.loaded, "turned_boxes", example, Move(header.stored, header.stored, header.orientation))
    if kind is Kind.SCALED and frame == "annotated":
        # The annotated image was seen turned, so only its size changes.
        return Fit(header.loaded, "scaled_boxes", example, Move(doubt.stated, header.loaded))
    if not doubt.boxes:
        return Fit(header.loaded, "corrected_sizes", example)
    return Fit(header.loaded, "other_frame", example, usable=False)


def _show(size: Size) -> str:
    return f"{size[0]:g}x{size[1]:g}"


def is_box(box: object) -> bool:
    """Whether it is four finite numbers with a width and a height above zero."""
    if not isinstance(box, list) or len(box) != 4:
        return False
    return all(map(is_number, box)) and box[2] > 0 and box[3] > 0


def _inside(box: Sequence[float], size: Size) -> bool:
    x, y, w, h = box
    across, down = (max(NEAR, SLACK * side) for side in size)
    return x >= -across and y >= -down and x + w <= size[0] + across and y + h <= size[1] + down
