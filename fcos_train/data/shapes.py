"""A generated detection data set: drawn shapes on textured backgrounds, in COCO layout.

Made in seconds, learned in minutes on a CPU, and exactly reproducible; for the quickstart, tests and benchmarks. Every
image has its own random stream (seed, split, index), so it does not depend on the number of images. Boxes enclose
exactly the visible pixels (before JPEG compression).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fcos_train.progress import track
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json
from mmcv_overrides.regular_files import read_json

CLASSES = ("circle", "square", "triangle")
MAX_OBJECTS = 6
MAX_COVERED = 0.3  # share of a shape's pixels that later shapes may cover
SIZES = (0.1, 0.5)  # side of a shape / shorter side of the image: 24 to 120 px at 320x240
CONTRAST = 90  # least distance between the colours of a shape and of the background under it; at most 442
# The same for FCOS's levels P3 to P6. At a shorter side of 768 px these are 69-115, 146-238, 292-476 and 591-691 px:
# from its centre, the farthest side of an object lies within the range of its level (up to 64, 128, 256, 512 px).
SIZES_OF_LEVELS = ((0.09, 0.15), (0.19, 0.31), (0.38, 0.62), (0.77, 0.9))
MAX_MORE = 2  # objects beside the one of each level
SIZE_RULES = ("standard", "all-levels")
_MARK = "FCOS-Train generated shapes"
_TRIES = 20


@dataclass(frozen=True)
class Drawn:
    """A shape in an image: class index and the box (x, y, w, h) of its visible pixels."""

    label: int
    box: tuple[int, int, int, int]


def make_shapes(
    root: Path | str,
    train: int = 200,
    val: int = 50,
    size: tuple[int, int] = (320, 240),
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    sizes: str = "standard",
) -> Path:
    """Write train2017/, val2017/ and annotations/instances_{train,val}2017.json below `root`; returns `root`.

    The annotations are written last, so an interrupted call leaves none.

    Args:
        root: the folder.
        train: number of training images.
        val: number of validation images.
        size: (width, height) of every image in px; shapes scale with the shorter side.
        seed: of the random generators.
        classes: any of 'circle', 'square', 'triangle', 'cross'; category ids follow their order, from 1.
        sizes: 'standard': sides of a tenth to a half of the shorter side of the image, which FCOS assigns to its
            finest level. 'all-levels': one shape of each of :data:`SIZES_OF_LEVELS` and up to two more.

    Raises:
        UserError: invalid arguments, or a folder that contains another data set or cannot be written.
    """
    root = Path(root).expanduser()
    unknown = [name for name in classes if name not in _DRAW]
    if unknown or not classes:
        raise UserError(f"cannot draw {', '.join(unknown) or 'no class at all'}; known shapes: {', '.join(_DRAW)}")
    if sizes not in SIZE_RULES:
        raise UserError(f"sizes {sizes}: choose from {', '.join(SIZE_RULES)}")
    if train < 1 or val < 1 or min(size) < 32:
        raise UserError(f"need at least 1 image per split and 32 px a side; got train {train}, val {val}, size {size}")
    files = {name: root / "annotations" / f"instances_{name}2017.json" for name in ("train", "val")}
    try:
        _clear(root, files)
        splits = {
            name: _make_split(root / f"{name}2017", count, size, (seed, index), classes, sizes)
            for index, (name, count) in enumerate((("train", train), ("val", val)))
        }
    except OSError as error:
        raise UserError(f"cannot write to {root}: {error.strerror or error}") from None
    for name, data in splits.items():
        write_json(files[name], data)
    return root


def _clear(root: Path, files: dict[str, Path]) -> None:
    """Remove an earlier generated set and nothing else; annotations first, so that no incomplete set has any."""
    for path in files.values():
        if path.is_file() and _MARK not in _description(path):
            raise UserError(f"{path} belongs to another data set; choose an empty folder")
    for path in files.values():
        path.unlink(missing_ok=True)
    for name in files:
        for image in (root / f"{name}2017").glob("shapes_*.jpg"):
            image.unlink()


def _description(path: Path) -> str:
    try:
        return str(read_json(path, "annotation file")["info"]["description"])
    except (UserError, KeyError, TypeError):
        return ""


def _make_split(
    folder: Path, count: int, size: tuple[int, int], seed: tuple[int, int], classes: Sequence[str], sizes: str
) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id in track(range(1, count + 1), "drawing images"):
        image, drawn = draw_image(np.random.default_rng((*seed, image_id)), size, classes, sizes)[:2]
        name = f"shapes_{image_id:06d}.jpg"
        (folder / name).write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
        images.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        for shape in drawn:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": shape.label + 1,
                    "bbox": list(map(float, shape.box)),
                    "area": float(shape.box[2] * shape.box[3]),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(classes, start=1)]
    info = {"description": f"{_MARK}: seed {seed[0]}, {count} images of {size[0]}x{size[1]}"}
    return {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def draw_image(
    rng: np.random.Generator, size: tuple[int, int], classes: Sequence[str] = CLASSES, sizes: str = "standard"
) -> tuple[np.ndarray, list[Drawn], np.ndarray]:
    """One image, BGR u8 [H, W, 3], its shapes, and the map i32 [H, W] of their pixels (0, or 1 + index)."""
    image = _background(rng, size)
    owner = np.zeros(image.shape[:2], np.int32)
    labels: list[int] = []
    full: list[int] = []  # pixels of each shape, before later ones cover it
    for bounds in _bounds_of_sides(rng, sizes):
        label = int(rng.integers(len(classes)))
        mask = _place(rng, owner, full, classes[label], bounds)
        if mask is None:
            continue
        labels.append(label)
        full.append(int(mask.sum()))
        owner[mask] = len(labels)
        image[mask] = _paint(rng, image[mask])
    return image, [Drawn(label, _box(owner == i)) for i, label in enumerate(labels, start=1)], owner


def _bounds_of_sides(rng: np.random.Generator, sizes: str) -> list[tuple[float, float]]:
    """Bounds of the side of each shape of an image, in shorter sides of the image; small shapes lie on large ones."""
    if sizes == "standard":
        return [SIZES] * int(rng.integers(1, MAX_OBJECTS + 1))
    more = rng.integers(len(SIZES_OF_LEVELS) - 1, size=rng.integers(MAX_MORE + 1))  # two of the largest do not fit
    return sorted(SIZES_OF_LEVELS + tuple(SIZES_OF_LEVELS[level] for level in more), reverse=True)


def _place(
    rng: np.random.Generator,
    owner: np.ndarray,
    full: list[int],
    shape: str,
    bounds: tuple[float, float] = SIZES,
) -> np.ndarray | None:
    """A mask bool [H, W] of a new shape that covers no earlier one too much; None if none was found."""
    height, width = owner.shape
    visible = np.bincount(owner.ravel(), minlength=len(full) + 1)[1:]
    for _ in range(_TRIES):
        side = min(owner.shape) * float(np.exp(rng.uniform(*np.log(bounds))))
        radius = side / 2
        cx, cy = rng.uniform(radius + 1, width - radius - 1), rng.uniform(radius + 1, height - radius - 1)
        mask = np.zeros(owner.shape, np.uint8)
        _DRAW[shape](mask, cx, cy, radius, rng)
        drawn = mask.view(bool)
        left = visible - np.bincount(owner[drawn], minlength=len(full) + 1)[1:]
        if drawn.any() and all(seen >= (1 - MAX_COVERED) * total for seen, total in zip(left, full, strict=True)):
            return drawn
    return None


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return int(x), int(y), int(w), int(h)


def _paint(rng: np.random.Generator, under: np.ndarray) -> np.ndarray:
    """Pixels u8 [N, 3] of a colour that differs enough from `under` u8 [N, 3], with some noise."""
    mean = under.mean(axis=0)
    while np.linalg.norm((colour := rng.uniform(0, 255, 3)) - mean) < CONTRAST:
        pass
    return np.clip(colour + rng.normal(0, 6, under.shape), 0, 255).astype(np.uint8)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise, a gradient or stripes between two colours, with fine noise: BGR u8 [H, W, 3]."""
    width, height = size
    kind = int(rng.integers(3))
    angle = rng.uniform(0, 2 * np.pi)
    x, y = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    along = np.float32(np.cos(angle)) * x + (np.float32(np.sin(angle)) * y)[:, None]
    if kind == 0:  # cloudy noise
        cells = rng.uniform(0, 1, (int(rng.integers(4, 10)), int(rng.integers(4, 12)))).astype(np.float32)
        blend = cv2.resize(cells, size, interpolation=cv2.INTER_LINEAR)
    elif kind == 1:  # gradient
        blend = (along + 1.5) / 3
    else:  # stripes
        blend = 0.5 + 0.5 * np.sin(along * np.float32(rng.uniform(8, 30)))
    low, high = rng.uniform(30, 225, 3), rng.uniform(-60, 60, 3)
    grain = rng.integers(-12, 13, (height, width, 1)).astype(np.float32)[..., 0]
    # Plane by plane: numpy is ten times as slow with an innermost axis of three.
    ends = zip(low.astype(np.float32), high.astype(np.float32), strict=True)
    planes = [blend * scale + offset + grain for offset, scale in ends]
    return cv2.merge([np.clip(plane, 0, 255).astype(np.uint8) for plane in planes])


# Each sets its pixels of `mask` u8 [H, W] to 1; `radius` (px) is half the side of the enclosing square.


def _circle(mask: np.ndarray, cx: float, cy: float, radius: float, rng: np.random.Generator) -> None:
    cv2.circle(mask, (round(cx), round(cy)), max(1, round(radius) - 1), 1, -1)


def _square(mask: np.ndarray, cx: float, cy: float, radius: float, rng: np.random.Generator) -> None:
    radius *= 0.9  # so that its area is closer to those of the others
    cv2.rectangle(mask, (round(cx - radius), round(cy - radius)), (round(cx + radius), round(cy + radius)), 1, -1)


def _triangle(mask: np.ndarray, cx: float, cy: float, radius: float, rng: np.random.Generator) -> None:
    angles = rng.uniform(0, 2 * np.pi) + np.array([0, 2, 4]) * np.pi / 3
    corners = np.stack([cx + radius * np.cos(angles), cy + radius * np.sin(angles)], axis=1)
    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)


def _cross(mask: np.ndarray, cx: float, cy: float, radius: float, rng: np.random.Generator) -> None:
    arm = radius / 3
    for dx, dy in ((radius, arm), (arm, radius)):
        cv2.rectangle(mask, (round(cx - dx), round(cy - dy)), (round(cx + dx), round(cy + dy)), 1, -1)


_DRAW: dict[str, Callable[[np.ndarray, float, float, float, np.random.Generator], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}
