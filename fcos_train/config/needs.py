"""What a config needs beyond its own file, checked at the start: a model, masks, stuff maps, proposals, a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmdet
from mmengine.config import Config, ConfigDict

from fcos_train.config.load import config_folders, leaf_datasets, load_config, walk
from fcos_train.data import DataSpec, Split
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import read_json

TRAINING = ("model", "train_dataloader", "train_cfg", "optim_wrapper")


def require_sections(cfg: Config, name: str, sections: tuple[str, ...] = ("model",)) -> None:
    """Refuse a file that is only a fragment of a config, such as a schedule, a data set or a test-time augmentation.

    Raises:
        UserError: a section is missing; the message has its name.
    """
    lacking = [section for section in sections if not isinstance(cfg.get(section), dict)]
    if lacking:
        raise UserError(
            f"config {name} has no {' and no '.join(lacking)}: it is a part of a config, to be used as a _base_. "
            "Name a config that has a model and its data"
        )


def make_buildable(cfg: Config) -> list[str]:
    """Change what mmdet could not build from the config alone. Returns lines for the log.

    Raises:
        UserError: see :func:`inline_teachers` and :func:`refuse_grounding_dino`.
    """
    refuse_grounding_dino(cfg)
    return [*inline_teachers(cfg), *torch_sync_bn(cfg)]


def refuse_grounding_dino(cfg: Config) -> None:
    """Refuse a model that this version of mmdet cannot run, instead of failing in its first step.

    Raises:
        UserError: the model is a GroundingDINO.
    """
    if mmdet.__version__ == "3.5.1" and any(_type(part) == "GroundingDINO" for part in walk(cfg.model)):
        raise UserError(
            "mmdet 3.5.1 cannot run GroundingDINO: its decoder encodes a box in 1024 numbers (DinoTransformerDecoder), "
            "of which its ref_point_head takes 512. Take a config of another family, such as mmdet::glip or mmdet::dino"
        )


def rename_jpeg_compression(cfg: Config) -> list[str]:
    """Put albumentations' ImageCompression in place of JpegCompression, its name before 1.4. Returns lines for the log.

    mmdet's example has the old name, and its Albu needs albumentations of a version that has the new one only.
    """
    notes = []
    for part in walk([cfg.get("train_dataloader"), cfg.get("val_dataloader"), cfg.get("test_dataloader")]):
        if part.get("type") == "JpegCompression":
            quality = (part.pop("quality_lower", 99), part.pop("quality_upper", 100))
            part.update(type="ImageCompression", compression_type="jpeg", quality_range=quality)
            notes.append(f"Albu: JpegCompression -> ImageCompression, quality {quality[0]} to {quality[1]}")
    return list(dict.fromkeys(notes))


def inline_teachers(cfg: Config) -> list[str]:
    """Put the model of a teacher's config file into the config. Returns lines for the log.

    mmdet gives the path relative to its repository. In the config itself the teacher travels with the checkpoint, which
    then needs no further file.

    Raises:
        UserError: there is no such file.
    """
    notes = []
    for part in walk(cfg.model):
        given = part.get("teacher_config")
        if not isinstance(given, str):
            continue
        carried = config_folders()["mmdet::"] / given.removeprefix("configs/")
        path = given if Path(given).is_file() else str(carried)
        teacher = load_config(path)
        require_sections(teacher, path)
        part["teacher_config"] = ConfigDict(model=teacher.model)
        notes.append(f"teacher_config {given}: read from {path}")
    return notes


def torch_sync_bn(cfg: Config) -> list[str]:
    """Replace mmcv's compiled SyncBN (``MMSyncBN``) by torch's. Returns lines for the log.

    Both normalise with the mean and variance of all ranks; mmcv's cannot be built in a single process.
    """
    found = [part for part in walk(cfg.model) if part.get("type") == "MMSyncBN"]
    for part in found:
        part["type"] = "SyncBN"
    return ["norm MMSyncBN -> SyncBN: torch's, which needs no compiled operator"] if found else []


def require_annotations(cfg: Config, spec: DataSpec, given: bool) -> None:
    """Refuse a training whose pipeline reads what the annotations do not hold.

    Args:
        given: the data set is that of ``--data-path``, not the one that the config names.

    Raises:
        UserError: masks, stuff maps, panoptic maps or proposals are missing.
    """
    leaves = leaf_datasets(cfg.train_dataloader.dataset)
    steps = list(_steps(cfg.train_dataloader.dataset))
    if any(_loads(step, "with_mask") for step in steps):
        _require_masks(cfg, spec.train)
    if given and any(_type(step) == "LoadPanopticAnnotations" for step in steps):
        raise UserError(
            "the config trains panoptic segmentation (LoadPanopticAnnotations), which needs panoptic maps; --data-path "
            "reads boxes and masks. Take a config for instances, or name the files in the config and leave out "
            "--data-path"
        )
    if any(_loads(step, "with_seg") for step in steps) and not all(_prefix(leaf, "seg") for leaf in leaves):
        raise UserError(
            "the config trains a semantic branch (LoadAnnotations with_seg=True), which needs stuff maps "
            "(data_prefix.seg); this data set has none. Take a config without that branch, such as "
            "mmdet::htc/htc-without-semantic_r50_fpn_1x_coco for HTC"
        )
    if any(_type(step) == "LoadProposals" for step in steps):
        for leaf in leaves:
            _require_proposals(leaf)


def _require_proposals(leaf: ConfigDict) -> None:
    file = leaf.get("proposal_file")
    if not file or not Path(file).is_file():
        found = f"there is no {file}" if file else "the data set names none"
        raise UserError(
            f"the config trains on proposals of another model (LoadProposals), but {found}. Give the file that an RPN "
            "wrote (train_dataloader.dataset.proposal_file), or take a config with an RPN of its own, such as "
            "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco"
        )


def _require_masks(cfg: Config, split: Split) -> None:
    total, without, example = count_masks(split.ann_file)
    if without:
        raise UserError(
            f"the config trains masks ({cfg.model.get('type')}, LoadAnnotations with_mask=True), but {without} of "
            f"{total} boxes in {split.ann_file} have no segmentation (the first in {printable(example)}). Annotate "
            "polygons, or take a config for boxes, such as mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco"
        )


def count_masks(ann_file: Path) -> tuple[int, int, str]:
    """Boxes of a COCO file, those without a polygon or RLE, and the name of the first image with such a box."""
    data = read_json(ann_file, "annotation file")
    names = {image["id"]: image["file_name"] for image in data["images"]}
    boxes = [annotation for annotation in data["annotations"] if not annotation.get("ignore")]
    without = [annotation for annotation in boxes if not annotation.get("segmentation")]
    example = str(names.get(without[0]["image_id"], "")) if without else ""
    return len(boxes), len(without), example


def _steps(dataset: Any) -> Iterator[ConfigDict]:
    """Every transform of a data set, those of its wrappers and of combined pipelines too."""
    for part in walk(dataset):
        if "type" in part and "dataset" not in part and "datasets" not in part:
            yield part


def _type(step: dict[str, Any]) -> str:
    return str(step.get("type", "")).removeprefix("mmdet.")


def _loads(step: dict[str, Any], what: str) -> bool:
    return _type(step) == "LoadAnnotations" and bool(step.get(what))


def _prefix(leaf: ConfigDict, key: str) -> str | None:
    return (leaf.get("data_prefix") or {}).get(key)
