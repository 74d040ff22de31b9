"""The data set that a config names itself, read and checked like one given by ``--data-path``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict

from fcos_train.config.agreement import DATA, Facts, disagreements
from fcos_train.config.class_count import set_class_count
from fcos_train.config.evaluators import counts_voc, point_evaluators
from fcos_train.config.load import leaf_datasets, walk
from fcos_train.config.loaders import LOADERS
from fcos_train.config.options import EvalOptions, TrainOptions
from fcos_train.data import DataReport, DataSpec, Split, check, resolve
from fcos_train.data.dataset import BoxDataset
from fcos_train.data.fingerprint import digest_of_file
from fcos_train.data.frames import misfits
from fcos_train.data.headers import read_headers
from fcos_train.data.inside import Boundary, require_inside, survey
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json
from mmcv_overrides.nodes import node, on_each_node
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import read_json

_log = logging.getLogger(__name__)


def _split(loader: ConfigDict | None, name: str) -> Split | None:
    """Files of the one COCO data set behind a loader; None for other types and for several data sets in one."""
    leaves = leaf_datasets(loader.dataset) if loader is not None else []
    if len(leaves) != 1 or leaves[0].get("type") not in ("CocoDataset", "BoxDataset") or not leaves[0].get("ann_file"):
        return None
    return _files(leaves[0], name)


def _files(leaf: ConfigDict, name: str) -> Split:
    root = Path(leaf.get("data_root") or "")
    return Split(name, root / leaf.ann_file, root / (leaf.get("data_prefix") or {}).get("img", ""))


def files_of_config(cfg: Config) -> list[Split]:
    """The COCO files that a config names for training and validation; without those of other types."""
    splits = (_split(cfg.get(f"{name}_dataloader"), name) for name in ("train", "val"))
    return [split for split in splits if split is not None]


def _check_others(cfg: Config, allow_outside: Sequence[str]) -> None:
    """Check the images of data sets that are not checked otherwise: COCO files of other types, several in one.

    Nothing is corrected there: images that cannot be read, or whose boxes count in another frame, are logged.

    Raises:
        UserError: image paths that lead outside.
    """
    found, parts = [], {}
    for loader in LOADERS:
        for leaf in leaf_datasets(cfg[loader].dataset) if cfg.get(loader) else []:
            if not str(leaf.get("ann_file") or "").endswith(".json"):
                continue
            split = _files(leaf, loader)
            if not (split.ann_file.is_file() and split.img_dir.is_dir()):
                continue  # mmdet says so, or finds it in a storage of another kind
            data = read_json(split.ann_file, "annotation file")
            images = data.get("images") if isinstance(data, dict) else None
            entries = [image for image in images or () if isinstance(image, dict)]
            entries = [image for image in entries if isinstance(image.get("file_name"), str)]
            names = [image["file_name"] for image in entries]
            boundary = Boundary(split.img_dir, allow_outside)
            known = survey(split.img_dir, names, boundary)
            found.append((split.ann_file, known, boundary))
            present = [name for name in dict.fromkeys(names) if name not in known.absent]
            parts[split.ann_file, split.img_dir] = (dict(data, images=entries), present)
    require_inside(found)
    for (ann_file, img_dir), (data, names) in parts.items():
        for line in misfits(data, read_headers(img_dir, names, loads_turned(cfg))):
            _log.warning("%s: %s", printable(ann_file), printable(line))


def _named_classes(cfg: Config) -> Sequence[str] | None:
    """Class names that the config gives; those of the training set first."""
    for loader in ("train_dataloader", "test_dataloader"):
        for leaf in leaf_datasets(cfg[loader].dataset) if cfg.get(loader) else []:
            names = (leaf.get("metainfo") or {}).get("classes")
            if names:
                return names
    return None


def data_of_config(
    cfg: Config,
    cache_dir: Path,
    classes: Sequence[str] | None,
    allow_outside: Sequence[str] = (),
    test: bool = False,
) -> DataSpec | None:
    """Check the COCO files that a config names. Images must lie in the image folder that it names.

    Args:
        allow_outside: folders that images may lie in, beside those.
        test: also check what the test loader reads.

    Returns:
        the data set; None when the config reads something else than one COCO set per split, of which only the image
        paths are checked.

    Raises:
        UserError: the files are absent, lead outside, or hold nothing to train on.
    """
    train = _split(cfg.get("train_dataloader"), "train")
    val = _split(cfg.get("val_dataloader") or cfg.get("test_dataloader"), "val")
    tested = _split(cfg.get("test_dataloader"), "test") if test else None
    if train is None or val is None or test and tested is None:
        _check_others(cfg, allow_outside)
        return None
    if tested is not None and replace(tested, name="val") == val:
        tested = None
    absent = [s for s in (train, val, tested) if s is not None and not s.ann_file.is_file()]
    if absent:
        raise UserError(
            f"the config's data set is not there: no {' and no '.join(str(s.ann_file) for s in absent)}. "
            "Give a folder in COCO, VOC or YOLO layout with --data-path"
        )
    classes = classes or _named_classes(cfg)
    report: DataReport = check(train, val, classes, allow_outside, cache_dir, loads_turned(cfg), tested)
    used = {s.name: replace(s, ann_file=report.splits[s.name].ann_file) for s in (train, val, tested) if s is not None}
    last = used.get("test", used["val"]) if test else None
    return DataSpec("COCO", report.classes, used["train"], used["val"], report, last)


def data_is_there(cfg: Config) -> bool:
    """Whether the annotation files are there that :func:`data_of_config` would read."""
    return all(split.ann_file.is_file() for split in files_of_config(cfg))


def point_at_data(cfg: Config, spec: DataSpec) -> list[str]:
    """Let every loader and metric read ``spec``; class names and ``num_classes`` follow from it.

    Returns:
        lines for the log: what the config says of its data and is replaced.
    """
    notes: list[str] = []
    classes = tuple(spec.classes)
    for loader, split in zip(LOADERS, (spec.train, spec.val, spec.val), strict=True):
        for leaf in leaf_datasets(cfg[loader].dataset) if cfg.get(loader) is not None else []:
            notes += _point_leaf(leaf, split, classes, counts_voc(cfg))
    notes += point_evaluators(cfg, spec.val.ann_file)
    notes += set_class_count(cfg.model, len(classes))
    return list(dict.fromkeys(notes))


def _point_leaf(leaf: ConfigDict, split: Split, classes: tuple[str, ...], voc: bool) -> list[str]:
    """One data set that reads files; what else the config says of it (pipeline, filter, ...) stays.

    Args:
        voc: a metric of Pascal VOC reads the year of its protocol from the data set.
    """
    notes = []
    meta = ConfigDict(leaf.get("metainfo") or {})
    named = tuple([meta["classes"]] if isinstance(meta.get("classes"), str) else meta.get("classes") or ())
    if named and named != classes:
        notes.append(f"classes {', '.join(named)} of the config -> {', '.join(classes)} of the data set")
        meta.pop("palette", None)  # colours of the other classes
    if voc or str(leaf.get("type", "")).removeprefix("mmdet.") == "VOCDataset":
        meta.setdefault("dataset_type", "VOC2007" if "VOC2007" in str(leaf.get("data_prefix")) else "VOC2012")
    meta["classes"] = classes
    notes += _drop_options(leaf)
    root, prefix = Path(leaf.get("data_root") or ""), ConfigDict(leaf.get("data_prefix") or {})
    same = isinstance(prefix.get("img"), str) and root / prefix.img == split.img_dir  # maps beside these very images
    others = {key: str(root / path) for key, path in prefix.items() if key != "img" and isinstance(path, str)}
    values = {
        "type": "BoxDataset",
        "data_root": None,
        "ann_file": str(split.ann_file),
        "data_prefix": ConfigDict(img=str(split.img_dir), **(others if same else {})),
        "metainfo": meta,
    }
    for key, value in values.items():  # ConfigDict.update would merge the dicts
        leaf[key] = value
    return notes


def _loading_steps(cfg: Config) -> Iterator[ConfigDict]:
    """The steps of all loaders that read an image."""
    for part in walk({k: v for k, v in cfg.items() if k.endswith("_dataloader")}):
        if str(part.get("type")).removeprefix("mmdet.") in ("LoadImageFromFile", "LoadImage"):
            yield part


def _drop_options(leaf: ConfigDict) -> list[str]:
    """Remove what only the class takes that :class:`BoxDataset` replaces. Returns lines for the log.

    An option that neither takes is left, so that the check of keys finds the misspelling.
    """
    from fcos_train.config.keys.signature import legal_kwargs

    name = str(leaf.get("type", "")).rpartition(".")[2]
    old = DATASETS.get(name)
    theirs = (legal_kwargs(old) if old is not None else None) or frozenset(leaf)
    gone = sorted(key for key in leaf if key in theirs and key not in (*_taken(), "type", "_scope_"))
    for key in gone:
        del leaf[key]
    return [f"{', '.join(gone)} of {name}: left out, BoxDataset reads this data set"] if gone else []


def _taken() -> frozenset[str]:
    """Options of the class that ``--data-path`` puts in."""
    from fcos_train.config.keys.signature import legal_kwargs

    return legal_kwargs(BoxDataset) or frozenset()


def use_clear_loading(cfg: Config) -> None:
    """An image that cannot be read ends in a message that names it."""
    for part in _loading_steps(cfg):
        part["type"] = "LoadImage"


def allow_bad_samples(cfg: Config, most: int | None) -> list[str]:
    """``--max-bad-samples``: training images that cannot be read are replaced. Returns lines for the log.

    Raises:
        UserError: the config counts iterations, or its training images are not read from files by mmcv's transform.
    """
    if not most:
        return []
    steps = [step for step in walk(cfg.train_dataloader) if step.get("type") == "LoadImage"]
    if not steps or "max_epochs" not in cfg.train_cfg:
        raise UserError("--max-bad-samples needs a config that counts epochs and reads images with LoadImageFromFile")
    for step in steps:
        step["skip_unreadable"] = True
    cfg.train_cfg.update(type="EpochBasedTrainLoop", max_bad_samples=most)
    cfg.train_cfg.pop("by_epoch", None)
    return [f"training goes on while no more than {most} images cannot be read; others take their place"]


def loads_turned(cfg: Config) -> bool:
    """Whether images are loaded turned by their EXIF orientation, as they are by mmcv's default ``color_type``."""
    kinds = {part.get("color_type", "color") for part in _loading_steps(cfg)}
    return kinds <= {"color", "grayscale"}


def checked_data(cfg: Config, options: TrainOptions | EvalOptions, folder: Path) -> DataSpec | None:
    """The checked data set; the first rank of each machine prepares it, the others read what it wrote.

    For an evaluation, its ``val`` is the split to evaluate on.

    Raises:
        UserError: a fault of the data set, or it has no such split.
    """
    cache = folder / "data"
    wanted = options.split if isinstance(options, EvalOptions) else None

    def prepare() -> DataSpec | None:
        test = wanted == "test"
        if options.data_path is not None:
            spec = resolve(options.data_path, cache, options.classes, options.allow_outside, loads_turned(cfg), test)
        else:
            found = data_of_config(cfg, cache, options.classes, options.allow_outside, test)
            if found is None:
                return None
            spec = found
        write_json(cache / "check.json", {"lines": spec.report.lines(), **spec.report.to_dict()})  # for the report
        return _evaluated(spec, wanted)

    found = on_each_node(lambda: _with_facts(prepare()))
    spec, facts = found[node()]
    first = found[min(found)][1]
    lines = [line for n in found for line in disagreements(first, found[n][1], f"node {n}", f"node {min(found)}")]
    if lines:
        raise UserError("\n".join(lines))
    return spec


def _with_facts(spec: DataSpec | None) -> tuple[DataSpec | None, Facts]:
    """A data set, and what must be the same on all machines, which may have copies of their own."""
    if spec is None:
        return None, {}
    facts = {}
    for split in (spec.train, spec.val):
        facts[f"{split.name} images"] = str(spec.report.counts[split.name]["images"])
        facts[f"{split.name} annotations"] = digest_of_file(split.ann_file)
    return spec, {DATA: facts}


def _evaluated(spec: DataSpec, wanted: str | None) -> DataSpec:
    """The data set with the wanted split in the place of ``val``."""
    if wanted == "test" and spec.test is None:
        raise UserError(
            f"--split test: the {spec.layout} data set has no test split (test/, test.json, test.txt, or test in "
            "data.yaml)"
        )
    chosen = {"train": spec.train, "test": spec.test}.get(wanted or "val") or spec.val
    return replace(spec, val=chosen)


def loader_of_split(cfg: Config, wanted: str | None) -> None:
    """Let the test loader of a config whose data set is not checked read the split that is wanted.

    Raises:
        UserError: the config does not say how to evaluate that split.
    """
    if wanted in (None, "test"):
        return
    if wanted == "train":
        raise UserError(
            "--split train: the config reads something else than one COCO file for each split; give the data set with "
            "--data-path"
        )
    if cfg.get("val_dataloader") is None or cfg.get("val_evaluator") is None:
        raise UserError("--split val: the config has no val_dataloader and val_evaluator")
    cfg["test_dataloader"], cfg["test_evaluator"] = cfg.val_dataloader, cfg.val_evaluator
