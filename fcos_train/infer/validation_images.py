"""The first validation images of a configuration, for a demonstration or a verification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

from fcos_train.data.inside import readable
from mmcv_overrides.errors import UserError
from mmcv_overrides.regular_files import read_json

LOOKED_AT = 50  # images whose files are looked for


def validation_images(config: Config, annotated: bool = False) -> list[Path]:
    """The first images of the validation (else test) set whose files exist; none if anything is wrong with the set.

    The paths come from a checkpoint: they are checked like those of a data set, and no fault in them is reported.

    Args:
        annotated: only images with an annotation, in the order of the annotations.
    """
    for loader in ("val_dataloader", "test_dataloader"):
        found = _images_of((config.get(loader) or {}).get("dataset") or {}, annotated)
        if found:
            return found
    return []


def _images_of(dataset: Any, annotated: bool) -> list[Path]:
    root = dataset.get("data_root") or ""
    try:
        data = read_json(Path(root, dataset["ann_file"]), "annotation file")
        images = data["images"] if annotated else data["images"][:LOOKED_AT]
        if annotated:
            by_id = {image["id"]: image for image in images}
            images = [by_id[annotation["image_id"]] for annotation in data["annotations"]]
        folder = Path(root, (dataset.get("data_prefix") or {}).get("img", ""))
        return [folder / name for name in readable(folder, [image["file_name"] for image in images])]
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return []
