"""Finds the COCO annotation files of a folder, and the folders of their images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcos_train.data.file_index import SPLIT_OF, SPLIT_WORDS, FileIndex, files_below, fold, other_split
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

# instances_train2017.json, instances_train.json, train.json, val_coco.json; not instances_minival2014.json
_ANN_NAME = re.compile(rf"(?:instances[_-])?({'|'.join(SPLIT_OF)})[_-]?(\d{{4}})?(?:[._-]coco)?\.json", re.IGNORECASE)
_IN_FOLDER = ("_annotations.coco.json", "annotations.json", "labels.json")
_ANN_FOLDERS = ("annotations", "labels", "")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_YEAR = re.compile(r"(?<!\d)(\d{4})(?!\d)")
# Parts of names of COCO's files that hold no boxes, or a part of a split.
_OTHER_TASKS = frozenset(("captions", "panoptic", "stuff", "image", "keypoints", "minival", "dets", "results"))
# What else a message about a data set without splits advises.
LET_CHOOSE = ". Or let a share of the images be chosen: fcos-train convert PATH NEW --to coco --val-share 0.2"
_FEW = 16  # JSON files in a folder; more are annotations of single images, or other data
_SAMPLE = 50  # file names to look for when choosing the image folder


@dataclass(frozen=True)
class CocoFile:
    """An annotation file: `word` is its train, val, valid, ... as written, `year` is '2017' or ''."""

    path: Path
    word: str
    year: str

    @property
    def split(self) -> str:
        """train, val or test."""
        return SPLIT_OF[self.word.lower()]


@dataclass(frozen=True)
class CocoLayout:
    """A folder with COCO annotations; `tests`: the files that may be its test split, beside `val`."""

    base: Path
    train: CocoFile
    val: CocoFile
    tests: tuple[CocoFile, ...] = ()
    layout: str = "COCO"

    @property
    def test(self) -> CocoFile | None:
        """The test split; that of validation if there is no other one.

        Raises:
            UserError: several files may be meant.
        """
        if self.val.split == "test":
            return self.val
        return _only(self.tests)


def find_coco(base: Path) -> CocoLayout | None:
    """The COCO files of a folder; None if it has no training annotations.

    Raises:
        UserError: there are none for validation, or several files may be meant.
    """
    usual, other = _usual_files(base), _other_files(base)
    train = _newest(_of(usual, "train"), "2017") or _only(_of(other, "train"))
    if train is None:
        return None
    # A test split stands in for an absent validation split.
    val = (
        _newest(_of(usual, "val") or _of(usual, "test"), train.year)
        or _only(_of(other, "val"))
        or _only(_of(other, "test"))
    )
    tested = _newest(_of(usual, "test"), train.year)
    tests = (tested,) if tested is not None else tuple(_of(other, "test"))
    if val is None and train not in usual:
        return None  # what the file is was guessed from its name
    if val is None:
        seen = f"; JSON files: {json_names(base)}"
        raise UserError(
            f"{base} has training annotations ({train.path.relative_to(base)}) but none for validation, "
            f"like instances_val2017.json or valid/_annotations.coco.json; found {contents(base)}{seen}{LET_CHOOSE}"
        )
    return CocoLayout(base, train, val, tests if val.split != "test" else ())


def _of(files: Iterable[CocoFile], split: str) -> list[CocoFile]:
    return [file for file in files if file.split == split]


def _newest(files: Sequence[CocoFile], preferred: str) -> CocoFile | None:
    """The file of the preferred year, else of the newest, else without a year."""
    return max(files, key=lambda f: (f.year == preferred, f.year), default=None)


def _only(files: Sequence[CocoFile]) -> CocoFile | None:
    if len(files) > 1:
        names = ", ".join(printable(str(file.path)) for file in files)
        raise UserError(
            f"several files may hold the {files[0].split} annotations: {names}. "
            f"Give the one that counts the name instances_{files[0].split}.json"
        )
    return files[0] if files else None


def _usual_files(base: Path) -> list[CocoFile]:
    """Files with names in use: in a folder of annotations, or in the folder of each split."""
    for folder in existing(base, _ANN_FOLDERS):
        found = [
            CocoFile(path, match[1], match[2] or "")
            for path in _jsons(folder)
            if (match := _ANN_NAME.fullmatch(path.name))
        ]
        if found:
            return found
    found = []
    for word in SPLIT_OF:
        for folder in existing(base, (word,)):
            named = {path.name: path for path in _jsons(folder)}
            found += [CocoFile(named[name], folder.name, "") for name in _IN_FOLDER if name in named]
    return found


def _other_files(base: Path) -> list[CocoFile]:
    """Files whose names contain the word of one split (train_annotations.json), or alone in the folder of a split."""
    for folder in existing(base, _ANN_FOLDERS):
        found = [file for path in _jsons(folder) if (file := _by_word(path)) is not None]
        if found:
            return found
    found = []
    for word in SPLIT_OF:
        for folder in existing(base, (word, f"annotations/{word}", f"{word}/annotations")):
            jsons = _jsons(folder)
            found += [CocoFile(jsons[0], word, "")] if len(jsons) == 1 else []
    return found


def _by_word(path: Path) -> CocoFile | None:
    words = _WORDS.findall(path.stem)
    splits = [word for word in words if word.lower() in SPLIT_OF]
    if len({SPLIT_OF[word.lower()] for word in splits}) != 1 or _OTHER_TASKS.intersection(map(str.lower, words)):
        return None
    year = _YEAR.search(path.stem)
    return CocoFile(path, splits[0], year[1] if year else "")


def _jsons(folder: Path) -> list[Path]:
    """Entries named .json; whether they are regular files is checked when they are read."""
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.name.lower().endswith(".json"))


def existing(base: Path, places: Iterable[str]) -> list[Path]:
    """The folders at these places below ``base``, each once, whatever the case of their names."""
    found: dict[Path, None] = {}
    below: dict[Path, list[Path]] = {}
    for place in places:
        folders = [base]
        for part in filter(None, place.split("/")):
            for folder in folders:
                if folder not in below:
                    below[folder] = folders_in(folder)
            folders = [child for folder in folders for child in below[folder] if fold(child.name) == fold(part)]
        found |= dict.fromkeys(folders)
    return list(found)


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, by name."""
    return sorted(Path(entry.path) for entry in os.scandir(folder) if os.path.isdir(entry.path))


def image_dir(base: Path, file: CocoFile, raw: dict) -> Path:
    """The folder in which most of a sample of the file names exist, as they are, or else by base name.

    Raises:
        UserError: no image of the sample is in any of the usual folders.
    """
    words = dict.fromkeys((file.word, *SPLIT_WORDS[file.split]))
    names = [f"{word}{year}" for word in words for year in dict.fromkeys((file.year, ""))]
    places = ["{}", "images/{}", "{}/images", "{}/data", "jpegimages/{}", "{}/jpegimages", "data/{}"]
    shared = ["images", "jpegimages", "data", "imgs", "img", ""]
    folders = existing(base, [place.format(name) for name in names for place in places] + shared)
    folders = list(dict.fromkeys([*folders[:-1], file.path.parent, folders[-1]]))
    step = max(1, len(raw["images"]) // _SAMPLE)
    sample = [image["file_name"] for image in raw["images"][::step]]
    for count in (_exist, _fit):
        score = {folder: count(folder, sample, file.split) for folder in folders}
        best = max(folders, key=lambda folder: score[folder])
        if score[best] or not sample:
            return best
    tried = ", ".join(str(folder) for folder in folders)
    raise UserError(
        f"no image of {file.path} was found, e.g. {printable(sample[0])[:300]}; looked in {tried}, also for files of "
        f"the same base name in another folder or case{_reason(folders, sample[0], file.split)}"
    )


def _exist(folder: Path, sample: Sequence[str], split: str) -> int:
    return sum(os.path.exists(folder / name) for name in sample)


def _fit(folder: Path, sample: Sequence[str], split: str) -> int:
    index = FileIndex(files_below(folder, other_split(split)))
    return len({index.find(name) for name in sample} - {None})


def _reason(folders: Sequence[Path], name: str, split: str) -> str:
    """What files there are that `name` may mean, if there are several."""
    for folder in folders:
        several = FileIndex(files_below(folder, other_split(split))).best(name)
        if len(several) > 1:
            return f"; in {folder} several fit: {', '.join(map(printable, several[:3]))}"
    return ""


def json_names(base: Path, limit: int = 8) -> str:
    """The JSON files in a folder, and in the folders below it that hold only a few, for a message."""
    found = [_jsons(folder) for folder in (base, *folders_in(base))]
    jsons = [path for paths in found if len(paths) <= _FEW for path in paths]
    more = f" and {len(jsons) - limit} more" if len(jsons) > limit else ""
    return ", ".join(printable(str(path.relative_to(base))) for path in jsons[:limit]) + more


def contents(folder: Path, limit: int = 12) -> str:
    """The entries of a folder, for a message."""
    names = sorted(entry.name + "/" * os.path.isdir(entry.path) for entry in os.scandir(folder))
    more = f", ... {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(printable, names[:limit])) + more if names else "nothing"
