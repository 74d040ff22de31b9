"""The data set that a config names itself, read and checked like one given by ``--data-path``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmcv_overrides.errors import UserError

from ..data import DataReport, DataSpec, Split, check, check_coco_files
from .config import leaf_datasets


def _split(loader: ConfigDict | None, name: str) -> Split | None:
    """Files of the one COCO data set behind a loader; None for other types and for several data sets in one."""
    leaves = leaf_datasets(loader.dataset) if loader is not None else []
    if len(leaves) != 1 or leaves[0].get("type") not in ("CocoDataset", "BoxDataset") or not leaves[0].get("ann_file"):
        return None
    root, leaf = Path(leaves[0].get("data_root") or ""), leaves[0]
    images = (leaf.get("data_prefix") or {}).get("img", "")
    return Split(name, root / leaf.ann_file, root / images)


def _named_classes(cfg: Config) -> Sequence[str] | None:
    """Class names that the config gives; those of the training set first."""
    for loader in ("train_dataloader", "test_dataloader"):
        for leaf in leaf_datasets(cfg[loader].dataset) if cfg.get(loader) else []:
            names = (leaf.get("metainfo") or {}).get("classes")
            if names:
                return names
    return None


def data_of_config(cfg: Config, cache_dir: Path, classes: Sequence[str] | None) -> DataSpec | None:
    """Check the COCO files that a config names.

    Returns:
        the data set; None when the config reads something else than one COCO set per split, which then is taken
        as it stands.

    Raises:
        UserError: the files are absent, or hold nothing to train on.
    """
    train = _split(cfg.get("train_dataloader"), "train")
    val = _split(cfg.get("val_dataloader") or cfg.get("test_dataloader"), "val")
    if train is None or val is None:
        return None
    absent = [s for s in (train, val) if not s.ann_file.is_file()]
    if absent:
        raise UserError(
            f"the config's data set is not there: no {' and no '.join(str(s.ann_file) for s in absent)}. "
            "Give a folder in COCO or VOC layout with --data-path"
        )
    classes = classes or _named_classes(cfg)
    report: DataReport = check(train, val, classes)
    splits = []
    for split in (train, val):
        part = check_coco_files(split.ann_file, split.img_dir, report.classes, split.name, cache_dir)
        report.splits[split.name] = part
        splits.append(replace(split, ann_file=part.ann_file))
    return DataSpec("COCO", report.classes, *splits, report)
