"""Finds data sets in YOLO layout: data.yaml, CVAT's obj.names, or folders of images and labels with classes.txt.

Paths in data.yaml are those of the machine that wrote it. What counts is the folder or list below the data folder that
a path ends with: `../train/images` and `/content/set/train/images` mean `train/images`.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcos_train.data.coco_fields import shown
from fcos_train.data.coco_layout import contents, existing
from fcos_train.data.file_index import IMAGE_SUFFIXES, SPLIT_WORDS
from mmcv_overrides.data_files import load_yaml
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import open_regular, read_text

MAX_YAML = 16 << 20  # bytes
MAX_CLASSES = 100_000
YAML = (".yaml", ".yml")
_USUAL = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_NAMES = ("obj.names", "classes.txt", "_darknet.labels", "labels.txt", "names.txt", "class.names")
_SAMPLE = 200  # files to look into
_LINE = 4096  # bytes of a first line
_DRIVE = re.compile(r"[A-Za-z]:/?")

Names = Mapping[int, Any]  # class index -> name as written


@dataclass(frozen=True)
class YoloSplit:
    """The images of one split.

    Attributes:
        source: the list or folder of the split, data.yaml if there are several.
        places: folders of images, and lists of them.
    """

    source: Path
    places: tuple[Path, ...]


@dataclass(frozen=True)
class YoloLayout:
    """A folder with YOLO labels.

    Attributes:
        file: where the class names are.
        names: the class names.
        keypoints: numbers that follow a box, of data sets of poses.
        test: the test split; `val` where that is the test split.
    """

    base: Path
    file: Path
    names: Names
    train: YoloSplit
    val: YoloSplit
    test: YoloSplit | None = None
    keypoints: int = 0
    layout: str = "YOLO"


def find_yolo(base: Path) -> YoloLayout | None:
    """The YOLO data set of a folder; None if it does not tell training from validation.

    Raises:
        UserError: a file describes a data set, but what it names is not there or is contradictory.
    """
    files = sorted(path for path in base.iterdir() if path.suffix.lower() in YAML and path.is_file())
    described = {path: data for path in files if (data := _described(path)) is not None}
    usual = [path for name in _USUAL for path in described if path.name.lower() == name]
    if len(described) > 1 and not usual:
        names = ", ".join(printable(path.name) for path in described)
        raise UserError(f"{base}: several files may describe the data set: {names}; give the one that counts as PATH")
    if described:
        path = (usual or list(described))[0]
        return _by_yaml(path, described[path])
    return _by_folders(base)


def of_yaml(path: Path) -> YoloLayout:
    """The YOLO data set that a file describes.

    Raises:
        UserError: it describes none.
    """
    data = _described(path, required=True)
    if data is None:
        raise UserError(f"{path} describes no data set: it needs train, val and names")
    return _by_yaml(path, data)


def _described(path: Path, required: bool = False) -> dict | None:
    """The content of a YAML file, if it describes a data set. Files of other purposes may hold anything."""
    try:
        text = io.StringIO(read_text(path, "YAML file", MAX_YAML))
        text.name = str(path)  # type: ignore[attr-defined]  # of the file, for messages
        data = load_yaml(None, text)
    except UserError:
        if required or path.name.lower() in _USUAL:
            raise
        return None
    described = isinstance(data, dict) and "train" in data and ("names" in data or "nc" in data)
    return data if described else None


def _by_yaml(file: Path, data: dict) -> YoloLayout:
    base = file.parent
    names = _names_of(data, file)
    if not isinstance(data.get("path", ""), (str, type(None))):
        raise UserError(f"{file}: path is {shown(str(data['path']))}; write a folder")
    parts: dict[str, YoloSplit | None] = {}
    for split, words in SPLIT_WORDS.items():
        word = next((word for word in words if data.get(word)), None)
        values = data[word] if word else []
        values = [values] if isinstance(values, str) else values
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            raise UserError(f"{file}: {word} is {shown(values)}; write a folder, a list of images or several of them")
        found = tuple(_place(file, f"{word}", value, data.get("path")) for value in values)
        parts[split] = YoloSplit(found[0] if len(found) == 1 else file, found) if found else None
    train, val, test = parts["train"], parts["val"] or parts["test"], parts["test"]
    if train is None or val is None:
        raise UserError(f"{file} names no images for {'training' if train is None else 'validation'}")
    return YoloLayout(base, file, names, train, val, test, _keypoints(data.get("kpt_shape"), file))


def _names_of(data: dict, file: Path) -> Names:
    """Class names by index; without any, the numbers."""
    names, count = data.get("names"), data.get("nc")
    if not (count is None or isinstance(count, int) and not isinstance(count, bool) and 0 < count <= MAX_CLASSES):
        raise UserError(f"{file}: nc is {shown(count)}; write the number of classes")
    if names is None:
        names = list(map(str, range(count or 0)))
    found: dict[Any, Any] = dict(names) if isinstance(names, dict) else {}
    if isinstance(names, list):
        found = dict(enumerate(names))
    if isinstance(names, dict):
        found = {int(k) if isinstance(k, str) and k.strip().isdecimal() else k: name for k, name in names.items()}
    if not found or not all(type(k) is int and 0 <= k < MAX_CLASSES for k in found):
        raise UserError(f"{file}: names is {shown(str(names))}; write a list of names, or a name for each class index")
    for index, name in found.items():
        if not isinstance(name, (str, int, float)) or isinstance(name, bool) or not str(name).strip():
            raise UserError(f"{file}: the name of class {index} is {shown(str(name))}; write it in quotes")
    if count is not None and count != len(found):
        raise UserError(f"{file}: nc is {count}, but names has {len(found)} classes")
    return dict(sorted(found.items()))


def _keypoints(shape: object, file: Path) -> int:
    if shape is None:
        return 0
    if isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape):
        return shape[0] * shape[1]
    raise UserError(f"{file}: kpt_shape is {shown(str(shape))}; write the number of keypoints and 2 or 3")


def _place(file: Path, word: str, value: str, root: object) -> Path:
    """The folder or list that a path of data.yaml means; one outside only if none below the data folder fits.

    Raises:
        UserError: there is none.
    """
    base = file.parent
    stated = f"{root}/{value}" if isinstance(root, str) and root and not _is_absolute(value) else value
    for place in _candidates(base, stated, value):
        if place.is_dir() or place.suffix.lower() == ".txt" and place.is_file():
            return place
    raise UserError(
        f"{file}: there is no folder and no list (.txt) '{printable(value)}' for {word}; looked for it below {base}, "
        f"where there is {contents(base)}"
    )


def _candidates(base: Path, stated: str, value: str) -> Iterator[Path]:
    parts, least = _parts(stated), min(len(_parts(value)), 2)
    literal = Path(stated.replace("\\", "/"))
    if literal.is_absolute():
        yield literal
    for first in range(len(parts) - least + 1):
        if not any(part == ".." for part in parts[first:]):
            yield base.joinpath(*parts[first:])
    yield base / literal


def _parts(path: str) -> list[str]:
    """The parts of a path of any system without drive; `a/../b` is `b`, and leading `..` are left out."""
    plain = os.path.normpath(_DRIVE.sub("", path.replace("\\", "/"), count=1))
    return [part for part in plain.split("/") if part not in ("", ".", "..")]


def _is_absolute(path: str) -> bool:
    return path.startswith(("/", "\\")) or bool(_DRIVE.match(path))


def _by_folders(base: Path) -> YoloLayout | None:
    """Splits by folders or lists, with a file of class names: CVAT's YOLO 1.1, darknet, LabelImg."""
    parts: dict[str, YoloSplit | None] = {}
    for split, words in SPLIT_WORDS.items():
        parts[split] = next((found for word in words if (found := _split_of(base, word)) is not None), None)
    train, val, test = parts["train"], parts["val"] or parts["test"], parts["test"]
    if train is None or val is None:
        return None
    file = names_file(base, train.places)
    if file is None:
        raise UserError(
            f"{base} holds YOLO labels, but no file names their classes: write data.yaml with train, val and names, or "
            "classes.txt with one name a line"
        )
    return YoloLayout(base, file, _listed_names(file), train, val, test)


def whole_yolo(base: Path) -> YoloLayout | None:
    """All images of a folder that does not tell training from validation, as the part to train on and to validate on.

    Raises:
        UserError: there are labels, but no file names their classes.
    """
    folders = existing(base, ("images", "obj_train_data", "obj_default_data", "train", "data/obj_train_data", ""))
    for folder in folders:
        if any(has_labels(place) for place in label_folders(folder, base)):
            break
    else:
        return None
    split = YoloSplit(folder, (folder,))
    yamls = [path for name in _USUAL if (path := base / name).is_file()]
    data = _described(yamls[0]) if yamls else None
    file = yamls[0] if data else names_file(base, split.places)
    if file is None:
        raise UserError(
            f"{base} holds YOLO labels, but no file names their classes: write classes.txt, one name a line"
        )
    names = _names_of(data, file) if data else _listed_names(file)
    return YoloLayout(base, file, names, split, split, keypoints=_keypoints((data or {}).get("kpt_shape"), file))


def _split_of(base: Path, word: str) -> YoloSplit | None:
    for folder in existing(base, (f"images/{word}", f"{word}/images", word, f"obj_{word}_data")):
        if any(has_labels(place) for place in label_folders(folder, base)):
            return YoloSplit(folder, (folder,))
    for place in existing(base, ("", "data")):
        path = place / f"{word}.txt"
        if path.is_file() and _lists_images(path):
            return YoloSplit(path, (path,))
    return None


def _lists_images(path: Path) -> bool:
    first = next(iter(list_lines(path)), "")
    return os.path.splitext(first)[1].lower() in IMAGE_SUFFIXES


def list_lines(path: Path) -> list[str]:
    """The lines of a list of images.

    Raises:
        UserError: it cannot be read.
    """
    return [line.strip() for line in read_text(path, "list of images").splitlines() if line.strip()]


def names_file(base: Path, places: Iterable[Path] = ()) -> Path | None:
    """The file of class names beside the labels or in the data folder."""
    folders = [base, *existing(base, ("data", "labels"))]
    for place in places:
        folders += label_folders(place, base) if place.is_dir() else []
    return next((folder / name for folder in folders for name in _NAMES if (folder / name).is_file()), None)


def _listed_names(file: Path) -> Names:
    lines = [line.strip() for line in read_text(file, "list of class names").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines or not all(lines):
        raise UserError(f"{file}: {'it is empty' if not lines else 'a line is empty'}; write one class name a line")
    return dict(enumerate(lines))


def label_folders(folder: Path, base: Path) -> list[Path]:
    """Where the labels of the images of a folder may be, the usual place first.

    The usual place is the folder whose path has `labels` instead of the last `images`.
    """
    parts = list(folder.parts)
    below = len(base.parts) if folder.is_relative_to(base) else 0
    found = []
    for index in range(len(parts) - 1, below - 1, -1):
        if parts[index].lower() in ("images", "jpegimages", "imgs"):
            exact = Path(*parts[:index], "labels", *parts[index + 1 :])
            found += (
                [exact]
                if exact.is_dir()
                else existing(Path(*parts[:index]), ["/".join(("labels", *parts[index + 1 :]))])
            )
    found += [folder, folder / "labels", folder.parent / "labels" / folder.name, base / "labels"]
    return [place for place in dict.fromkeys(found) if place.is_dir()]


def has_labels(folder: Path) -> bool:
    """Whether there are label files in a folder, or in one below it, by the first one that is not empty."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    texts = [entry for entry in entries if is_label(entry.name)][:_SAMPLE]
    if any(_looks_like_labels(entry) for entry in texts):
        return True
    return any(entry.is_dir(follow_symlinks=False) and has_labels(Path(entry.path)) for entry in entries)


def _looks_like_labels(entry: os.DirEntry[str]) -> bool:
    """Whether the first line of a file has five numbers or more; links are not followed here and count as labels."""
    if entry.is_symlink():
        return True
    try:
        with open_regular(entry.path) as file:
            words = file.readline(_LINE).split()
        return len(words) >= 5 and all(math.isfinite(float(word)) for word in words[:5])
    except (OSError, ValueError):
        return False


def is_label(name: str) -> bool:
    """Whether a file may hold the labels of an image, by its name."""
    low = name.lower()
    return low.endswith(".txt") and low not in _NAMES and not re.fullmatch(r"(readme|notes|license).*\.txt", low)
