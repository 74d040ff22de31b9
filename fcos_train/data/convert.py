"""Converts a data set between COCO, VOC and YOLO layout: all splits, checked and corrected as for a training."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fcos_train.data.archive import unpacked
from fcos_train.data.check import Source, examine
from fcos_train.data.clean import Cleaned
from fcos_train.data.file_index import fold
from fcos_train.data.inside import Boundary
from fcos_train.data.layout import has_splits, read_splits, validates_on_test
from fcos_train.data.spec import DataReport
from fcos_train.data.whole import read_whole
from fcos_train.data.writers import FORMATS, Part
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import unguessable
from mmcv_overrides.printable import printable


def convert(
    source: Path,
    target: Path,
    to: str,
    link: bool = False,
    classes: Sequence[str] | None = None,
    allow_outside: Sequence[str] = (),
    val_share: float | None = None,
    seed: int = 0,
) -> tuple[DataReport, list[str]]:
    """Write the data set of a folder or an archive in another layout. The source is not changed.

    Args:
        source: as ``data_path`` of :func:`fcos_train.data.resolve`.
        target: the folder to write, which is absent or empty; it appears whole or not at all.
        to: coco, voc or yolo.
        link: hard links to the images instead of copies.
        classes: as in `resolve`. allow_outside: as in `resolve`.
        val_share: of a data set without splits, the share of the images to validate on. seed: of their choice.

    Returns:
        the report on the source, and notes on what the new layout does not hold.

    Raises:
        UserError: the source is faulty, or the target cannot be written.
    """
    _require_free(source, target)
    sources, last, layout, notes = _read(source, allow_outside, val_share, seed)
    report, cleaned = examine(sources, classes)
    report.layout = layout
    report.notes[:0] = notes
    names = [last if one.report.name == "val" else one.report.name for one in cleaned]
    parts, files = _arranged(cleaned, names)
    form = FORMATS[to]
    with _appearing(target) as root:
        for part, paths in zip(parts, files, strict=True):
            folder = root / form.folder(parts, part.name)
            folder.mkdir(parents=True, exist_ok=True)
            for image, path in zip(part.data["images"], paths, strict=True):
                _put(path, folder / image["file_name"], link)
        lost = form.write(root, parts)
    return report, lost


def _read(
    source: Path, allow_outside: Sequence[str], val_share: float | None, seed: int
) -> tuple[list[Source], str, str, list[str]]:
    """The splits of the source, the name of the one that validates, the layout, and notes."""
    if val_share is None:
        found, sources, notes = read_splits(source, allow_outside, test=True)
        return sources, "test" if validates_on_test(found) else "val", found.layout, notes
    root, notes = unpacked(source.expanduser())
    if has_splits(root):
        raise UserError(f"--val-share: {source} tells training from validation already; leave it out")
    whole, layout = read_whole(root, allow_outside)
    images = list(whole.raw["images"])
    count = max(1, round(val_share * len(images)))
    if count >= len(images):
        raise UserError(f"--val-share {val_share:g}: of {len(images)} images none is left to train on")
    chosen = set(random.Random(seed).sample(range(len(images)), count))
    sources = []
    for name, wanted in (("train", False), ("val", True)):
        part = [image for index, image in enumerate(images) if (index in chosen) == wanted]
        ids = {image["id"] for image in part}
        boxes = [a for a in whole.raw["annotations"] if a.get("image_id") in ids]
        log = whole.log if name == "train" else type(whole.log)()
        raw = dict(whole.raw, images=part, annotations=boxes)
        sources.append(Source(replace(whole.split, name=name), raw, whole.boundary, log))
    notes.append(f"{count} of {len(images)} images chosen to validate on (seed {seed})")
    return sources, "val", layout, notes


def _require_free(source: Path, target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} exists and is not an empty folder; nothing is overwritten, give another folder")
    if source.is_dir() and Boundary(source).holds(os.path.realpath(target)):
        raise UserError(f"{target} is inside the data set {source}; give a folder outside of it")


def _arranged(cleaned: Sequence[Cleaned], names: Sequence[str]) -> tuple[list[Part], list[list[Path]]]:
    """The splits with the file names of the new data set, and the paths of their images."""
    parts, files = [], []
    for one, name in zip(cleaned, names, strict=True):
        old = [image["file_name"] for image in one.data["images"]]
        new = _new_names(old)
        folded = [fold(path) for path in new]
        if len(set(folded)) < len(folded):
            twice = next(path for path, key in zip(old, folded, strict=True) if folded.count(key) > 1)
            raise UserError(f"{name}: several images would have the name of {printable(twice)}; rename them")
        images = [dict(image, file_name=path) for image, path in zip(one.data["images"], new, strict=True)]
        parts.append(Part(name, dict(one.data, images=images)))
        files.append([one.report.img_dir / path for path in old])
    return parts, files


def _new_names(names: Sequence[str]) -> list[str]:
    """Paths without the folders that all of them share; base names where a path leads elsewhere."""
    paths = [os.path.normpath(name).split(os.sep) for name in names]
    if any(path[0] == ".." or os.path.isabs(name) for path, name in zip(paths, names, strict=True)):
        return [path[-1] for path in paths]
    while all(len(path) > 1 for path in paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return ["/".join(path) for path in paths]


def _put(source: Path, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    place: Callable[[str, Path], object] = os.link if link else shutil.copy2
    try:
        place(os.path.realpath(source), target)
    except OSError as error:
        way = "; leave out --link, which needs one file system for both" if link else ""
        raise UserError(f"cannot write {target}: {error.strerror or error}{way}") from error


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that takes its name if the block succeeds, and is removed if it raises."""
    scratch = unguessable(target.absolute(), ".tmp")
    try:
        try:
            scratch.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"cannot write to {target.absolute().parent}: {error.strerror or error}") from error
        try:
            yield scratch
            os.rename(scratch, target)  # replaces an empty folder only
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
