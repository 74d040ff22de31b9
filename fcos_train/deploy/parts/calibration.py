"""Images from which the ranges of activations are measured: of the training set, or of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcos_train.data.images import read_image
from fcos_train.deploy.parts.description import rule_of
from fcos_train.progress import track
from mmcv_overrides.errors import UserError

if TYPE_CHECKING:
    from fcos_train.deploy.parts.target import Conversion

USUAL = 40  # images
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def calibration_files(data_path: str | Path, cache: Path) -> list[Path]:
    """Paths of the images to calibrate with, in a fixed order.

    Args:
        data_path: a data set, of which the training split is taken, or a folder of images.
        cache: folder for the checked annotations of a data set.

    Raises:
        UserError: no such folder, no image in it, or a faulty data set.
    """
    folder = Path(data_path)
    if not folder.exists():
        raise UserError(f"--data-path {folder}: there is no such folder")
    if folder.is_dir():
        own = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        if own:
            return own
        if not any(folder.iterdir()):
            raise UserError(f"--data-path {folder}: the folder is empty; calibration needs images")
    from fcos_train.data import resolve
    from mmcv_overrides.regular_files import read_json

    train = resolve(str(folder), cache).train
    return [train.img_dir / entry["file_name"] for entry in read_json(train.ann_file, "annotation file")["images"]]


def spread(files: list[Path], count: int) -> list[Path]:
    """``count`` files at equal distances, all if there are fewer."""
    places = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
    return [files[place] for place in places]


def read_images(files: list[Path]) -> list[np.ndarray]:
    """The images u8 [h, w, 3] BGR; one that cannot be read is named by the error."""
    return [read_image(file) for file in track(files, "reading images")]


def inputs(job: Conversion, usual: int = USUAL) -> list[np.ndarray]:
    """The calibration images of a conversion as the model takes them, f32 [1, 3, H, W] each; says how many."""
    rule = rule_of(job.description)
    found = [rule.prepare(image)[None] for image in job.calibration(usual)]
    job.say(f"calibrating with {len(found)} images")
    return found
