"""The data check: what both splits contain, whether they agree, and whether there is anything to train on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fcos_train.data.box_units import examine_units
from fcos_train.data.clean import Cleaned, clean
from fcos_train.data.coco_json import load_coco
from fcos_train.data.depth import depth_warnings
from fcos_train.data.file_index import new_names
from fcos_train.data.frames import Files, settle
from fcos_train.data.headers import read_headers
from fcos_train.data.inside import Boundary, Survey, require_inside, survey
from fcos_train.data.spec import DataReport, FaultLog, Split, SplitReport, fault_lines
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json
from mmcv_overrides.printable import printable, require_names


@dataclass
class Source:
    """A split before the check.

    Attributes:
        split: its name, file and folder.
        raw: its annotations in COCO form.
        boundary: the folders that its images may be in.
        log: faults found while converting it.
    """

    split: Split
    raw: dict
    boundary: Boundary
    log: FaultLog = field(default_factory=FaultLog)


def check(
    train: Split,
    val: Split,
    classes: Sequence[str] | None = None,
    allow_outside: Sequence[str] = (),
    cache_dir: Path | str | None = None,
    turned: bool = True,
    test: Split | None = None,
) -> DataReport:
    """Check splits of COCO annotations. Changes none of their files.

    Args:
        train: the training split.
        val: the validation split.
        classes: names to train on, in this order; None: all of the training file, by category id.
        allow_outside: folders that images may be in, beside the image folder of their split.
        cache_dir: folder for cleaned copies, to which the `ann_file` of a report then points if anything had to be
            corrected; None: none are written.
        turned: whether the pipelines turn images by their EXIF orientation.
        test: a test split to check as well.

    Raises:
        UserError: nothing to train or evaluate on, most images missing, paths that lead outside, or classes of another
            split that training lacks. The message shows both class lists.
    """
    splits = [train, val, *([] if test is None else [test])]
    report, cleaned = examine([_source(s, allow_outside) for s in splits], classes, turned)
    if cache_dir is not None:
        for one in cleaned:
            _write_cleaned(one, cache_dir)
    return report


def _write_cleaned(cleaned: Cleaned, cache_dir: Path | str) -> None:
    """Write annotations that had to be corrected; the report points to the copy."""
    if cleaned.changed:
        report = cleaned.report
        report.ann_file = write_json(Path(cache_dir) / f"instances_{report.name}.json", cleaned.data)


def _source(split: Split, allow_outside: Sequence[str]) -> Source:
    log = FaultLog()
    return Source(split, load_coco(split.ann_file, log), Boundary(split.img_dir, allow_outside), log)


def examine(
    sources: Sequence[Source], classes: Sequence[str] | None = None, turned: bool = True
) -> tuple[DataReport, list[Cleaned]]:
    """`check` for annotations that are already loaded; also returns the cleaned annotations."""
    files = _look_at(sources, turned)
    names, warnings, notes = agree(sources[0], sources[1:], classes)
    warnings += _of_the_files(sources, files)
    cleaned = [clean(s.raw, s.split, names, known, s.log) for s, known in zip(sources, files, strict=True)]
    for source, result in zip(sources, cleaned, strict=True):
        _require_boxes(source, names, result.report, asked=classes is not None)
    reports = {c.report.name: c.report for c in cleaned}
    trained = cleaned[0].report.boxes_per_class
    warnings += [f"train: no box of class '{n}'" for n, count in trained.items() if not count]
    for other in cleaned[1:]:
        shared = _files(cleaned[0]) & _files(other)
        if shared:
            which = "both splits" if len(cleaned) == 2 else f"train and {other.report.name}"
            example = os.path.basename(min(shared))
            warnings.append(f"{len(shared)} images are in {which} (e.g. {example}): the mAP will be too high")
    return DataReport(names, reports, warnings=warnings, notes=notes), cleaned


def _look_at(sources: Sequence[Source], turned: bool = True) -> list[Files]:
    """What is known of the image files of each source: which exist, their headers, and the frame of their boxes.

    File names of another machine are replaced before.

    Args:
        turned: whether images are loaded turned by their EXIF orientation.

    Raises:
        UserError: images outside the boundary, or that are not regular files.
    """
    found = [_survey(source) for source in sources]
    require_inside([(s.split.ann_file, part, s.boundary) for s, part in zip(sources, found, strict=True)])
    headers = []
    for source, part in zip(sources, found, strict=True):
        names = dict.fromkeys(image["file_name"] for image in source.raw["images"])
        present = [name for name in names if name not in part.absent]
        headers.append(read_headers(source.split.img_dir, present, turned))
    fits = settle([(source.raw, known) for source, known in zip(sources, headers, strict=True)])
    return [Files(part.absent, known, fit) for part, known, fit in zip(found, headers, fits, strict=True)]


def _of_the_files(sources: Sequence[Source], files: Sequence[Files]) -> list[str]:
    """Warnings about boxes of another convention and images that load dark.

    Raises:
        UserError: boxes that are no COCO boxes.
    """
    warnings = []
    for source, known in zip(sources, files, strict=True):
        split = source.split
        warnings += examine_units(source.raw, known, split.name, str(split.ann_file))
        warnings += depth_warnings(split.name, split.img_dir, known.headers)
    return warnings


def _survey(source: Source) -> Survey:
    """Which images cannot be read, after the names of another machine have been replaced by those of the files."""
    folder, images = source.split.img_dir, source.raw["images"]
    found = survey(folder, (image["file_name"] for image in images), source.boundary)
    lost = found.absent.union(name for name in found.outside if not os.path.lexists(os.path.join(folder, name)))
    new = new_names(folder, [image["file_name"] for image in images], lost, source.split.name) if lost else {}
    if not new:
        return found
    for image in images:
        name = image["file_name"]
        if name in new:
            image["file_name"] = new[name]
            source.log.add("renamed_files", f"{name} -> {new[name]}")
    return survey(folder, (image["file_name"] for image in images), source.boundary)


def check_coco_files(
    ann_file: Path | str,
    img_dir: Path | str,
    classes: Sequence[str] | None = None,
    name: str = "train",
    cache_dir: Path | str | None = None,
    allow_outside: Sequence[str] = (),
) -> SplitReport:
    """Check one annotation file, for a config that names its files itself.

    Args:
        ann_file: COCO annotations.
        img_dir: folder of the images.
        classes: as in `check`.
        name: of the split, for messages.
        cache_dir: folder for a cleaned copy; None: none is written.
        allow_outside: as in `check`.

    Returns:
        The report; its `ann_file` is the file to use: a cleaned copy in `cache_dir` if that is given and anything had
        to be corrected, otherwise the original.

    Raises:
        UserError: as `check`; without `cache_dir` also if mmdet would give labels other class names than those in
            `classes` (it numbers them in the order of the file, not of the config).
    """
    split = Split(name, Path(ann_file), Path(img_dir))
    source = _source(split, allow_outside)
    names = _asked(classes) if classes is not None else tuple(_names(source.raw))
    files = _look_at([source])
    _of_the_files([source], files)
    result = clean(source.raw, split, names, files[0], source.log)
    _require_boxes(source, names, result.report, asked=classes is not None)
    if cache_dir is not None and result.changed:
        _write_cleaned(result, cache_dir)
    elif classes is not None:
        _require_order(source, names)
    return result.report


def agree(
    train: Source, others: Sequence[Source], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], list[str], list[str]]:
    """The class names to read all splits with, and warnings and notes about differences between them."""
    notes = []
    unused = _placeholders(train.raw, *(other.raw for other in others))
    if unused:
        notes.append(f"category {_show(unused)} only groups the others and has no box: ignored")
    in_train, *in_others = ([n for n in _names(s.raw) if n not in unused] for s in (train, *others))
    gaps = _id_gaps(train.raw)
    if gaps:
        notes.append(f"category ids have {gaps} gaps: harmless, labels follow the order of the ids")
    names = _asked(classes) if classes is not None else tuple(in_train)
    if not names:
        faults = fault_lines(train.split.name, train.log.counts, train.log.examples)
        raise UserError("; ".join([f"{train.split.ann_file} has no classes, so there is nothing to train on", *faults]))
    _require_known(names, in_train, train)
    warnings = []
    for other, there in zip(others, in_others, strict=True):
        if classes is None:
            _require_trained(in_train, there, train, other)
        warnings += _differences(other.split.name, names, in_train, there, all_used=classes is None)
    return names, list(dict.fromkeys(warnings)), notes


def _require_trained(in_train: Sequence[str], there: Sequence[str], train: Source, other: Source) -> None:
    """Raise if the other split has boxes of a class that training lacks."""
    extra = _without(there, in_train)
    if extra and _uses(other.raw, extra):
        word = "validation" if other.split.name == "val" else other.split.name
        raise UserError(
            f"{word} has classes that training lacks: {_show(extra)}. "
            f"Training classes: {_show(in_train)} ({train.split.ann_file}). "
            f"{word.capitalize()} classes: {_show(there)} ({other.split.ann_file}). "
            "Rename them so that they agree, or name the classes to use"
        )


def _differences(
    split: str, names: Sequence[str], in_train: Sequence[str], there: Sequence[str], all_used: bool
) -> list[str]:
    warnings = []
    extra = _without(there, in_train)
    if extra and all_used:
        warnings.append(f"{split}: classes that training lacks, without boxes, ignored: {_show(extra)}")
    absent = _without(names, there)
    if absent:
        warnings.append(f"{split}: no category named {_show(absent)}")
    if _without(in_train, _without(in_train, there)) != _without(there, extra):
        warnings.append("the splits have their classes in different orders: corrected to the order of train")
    return warnings


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    left_out = set(others)
    return [name for name in names if name not in left_out]


def _asked(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str):
        raise UserError(
            f"classes is the single text '{classes}', which Python would read letter by letter; "
            f"write ('{classes}',) in a config"
        )
    names = tuple(classes)
    require_names(names, "classes")
    twice = sorted(n for n, count in Counter(names).items() if count > 1)
    if twice or not names:
        raise UserError(f"classes names {_show(twice)} twice" if twice else "classes is empty")
    return names


def _names(raw: dict) -> list[str]:
    """Category names in the order of their ids, each once."""
    try:
        ordered = sorted(raw["categories"], key=lambda c: c["id"])
    except TypeError:  # ids of mixed types
        ordered = raw["categories"]
    return list(dict.fromkeys(c["name"] for c in ordered))


def _id_gaps(raw: dict) -> int:
    ids = {c["id"] for c in raw["categories"] if isinstance(c["id"], int)}
    return max(ids) - min(ids) + 1 - len(ids) if ids else 0


def _uses(raw: dict, names: Sequence[str]) -> bool:
    """Whether any annotation is of one of these classes."""
    wanted = set(names)
    ids = {c["id"] for c in raw["categories"] if c["name"] in wanted}
    return any(a.get("category_id") in ids for a in raw["annotations"])


def _placeholders(*raws: dict) -> list[str]:
    """Names of categories without a box that only group all others (Roboflow writes one, with id 0)."""
    categories = [c for raw in raws for c in raw["categories"]]
    groups = {str(c.get("supercategory")) for c in categories}
    if len(groups) > 1 + len(raws):  # the common group, and its own in each file
        return []
    found = []
    for name in groups.intersection(_names(raws[0])):
        others = [c for c in categories if c["name"] != name]
        all_in_it = bool(others) and all(c.get("supercategory") == name for c in others)
        if all_in_it and not any(_uses(raw, [name]) for raw in raws):
            found.append(name)
    return sorted(found)


def _require_known(names: Sequence[str], in_file: Sequence[str], source: Source) -> None:
    unknown = _without(names, in_file)
    if unknown and len(unknown) < len(names):
        raise UserError(
            f"{source.split.ann_file} has no class {_show(unknown)}; "
            f"your file has classes {_show(in_file)}; asked for {_show(names)}"
        )
    if unknown:
        raise UserError(_nothing(source, names))


def _require_boxes(source: Source, names: Sequence[str], report: SplitReport, asked: bool) -> None:
    if report.counts["trainable"]:
        return
    faults = "; ".join(report.faults())
    message = (
        _nothing(source, names)
        if asked
        else (
            f"{report.name}: no usable image with a box in {source.split.ann_file}: "
            f"{report.counts['images']} of {report.counts['images_in_file']} images "
            f"and 0 of {report.counts['boxes_in_file']} annotations can be used"
        )
    )
    raise UserError(message + (f"; {faults}" if faults else ""))


def _require_order(source: Source, names: Sequence[str]) -> None:
    """Raise unless `names` has the order of the file, in which mmdet numbers labels."""
    known = set(names)
    labels = [c["name"] for c in source.raw["categories"] if c["name"] in known]
    if labels != list(names):
        raise UserError(
            f"{source.split.ann_file} lists its classes as {_show(labels)}, the config as {_show(names)}: "
            "mmdet numbers them in the order of the file, so detections would have wrong names. "
            "Write the classes of the file, in its order, into the config, or use --data-path, which does so"
        )


def _nothing(source: Source, names: Sequence[str]) -> str:
    total = len(source.raw["annotations"])
    return (
        f"{source.split.name}: no usable image: your file has classes {_show(_names(source.raw))}; "
        f"asked for {_show(names)}; 0 of {total} annotations match ({source.split.ann_file})"
    )


def _files(cleaned: Cleaned) -> set[str]:
    folder = os.path.realpath(cleaned.report.img_dir)
    return {os.path.join(folder, image["file_name"]) for image in cleaned.data["images"]}


def _show(names: Sequence[str], limit: int = 12) -> str:
    more = f", ... {len(names) - limit} more" if len(names) > limit else ""
    return "{" + ", ".join(map(printable, names[:limit])) + more + "}"
