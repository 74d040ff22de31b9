"""A small checkpoint, images to calibrate with, and its exports to a target."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.support.self_labelled import label_with, table
from tests.support.small_detectors import small_config, write_checkpoint

SHAPE = (96, 128)
MAPS = [f"{part}_{level}" for part in ("cls", "box", "ctr") for level in range(5)]


class Conversions:
    """Exports of one FCOS with BatchNorm in its head, to files in a folder."""

    def __init__(self, folder: Path) -> None:
        from fcos_train.data.shapes import draw_image

        self.folder, self.images = folder, folder / "images"
        config = small_config("fcos-bn")
        config.test_dataloader.dataset.pipeline[1].scale = SHAPE[::-1]
        self.checkpoint = str(write_checkpoint(folder / "model.pth", config))
        self.images.mkdir()
        rng = np.random.default_rng(0)
        for index in range(4):
            cv2.imwrite(str(self.images / f"{index}.png"), draw_image(rng, (128, 96))[0])

    def options(self, target: str, output: Path, **options: Any) -> Any:
        """The options of an export."""
        from fcos_train.deploy.options import TargetOptions

        data = {"data_path": str(self.images)} if options.get("precision") == "int8" or "int8" in target else {}
        return TargetOptions(self.checkpoint, target=target, shape=SHAPE, output=str(output), **data, **options)

    def export(self, target: str, name: str, **options: Any) -> tuple[Any, list[str]]:
        """Export; returns what was converted, and the lines that were printed."""
        from fcos_train.deploy.convert import convert

        lines: list[str] = []
        return convert(self.options(target, self.folder / name, **options), lines.append), lines

    def evaluate(self, path: Path) -> tuple[int, str]:
        """The verb that compares the mAPs, on a data set labelled by the checkpoint; exit status and last line."""
        from fcos_train.cli.main import main
        from fcos_train.infer.detector import Detector

        data = self.folder / "labelled"
        if not data.exists():
            label_with(Detector.from_checkpoint(self.checkpoint, device="cpu"), data)
        words = ["--checkpoint", self.checkpoint, "--data-path", data, "--model", path, "--work-dir", self.folder / "w"]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = main(["ascend", "evaluate", *map(str, words), "--device", "cpu"])
        assert table(out.getvalue())["pth"][0] > 0.3
        return status, out.getvalue().splitlines()[-1]

    def maps(self, path: Path) -> list[np.ndarray]:
        """The maps of an artefact for the first image, opened as any command does."""
        from fcos_train.deploy.artefact import open_artefact
        from fcos_train.deploy.parts.description import beside, read_description, read_rule

        place = beside(path)
        image = cv2.imread(str(self.images / "0.png"))
        return open_artefact(path, read_description(place)).run(read_rule(place).prepare(image)[None])


def largest(blobs: Any) -> dict[str, float]:
    """Largest difference of an export by part of the head."""
    found: dict[str, float] = {}
    for blob in blobs:
        found[blob.part] = max(found.get(blob.part, 0.0), blob.largest)
    return found
