"""Exported networks and images that the tests of ncnn share."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from tests.support.small_detectors import small_config, write_checkpoint


class Exported(NamedTuple):
    """A checkpoint and the graph file of its export."""

    checkpoint: Path
    param: Path

    @property
    def weights(self) -> Path:
        return self.param.with_suffix(".bin")


def export(checkpoint: Path, precision: str, data: Path | None, folder: Path) -> Exported:
    """Export a checkpoint at 96 x 128."""
    from fcos_train.deploy.convert import convert
    from fcos_train.deploy.options import TargetOptions

    options = TargetOptions(
        checkpoint=str(checkpoint), target="ncnn", precision=precision, shape=(96, 128),
        data_path=str(data) if data else None, calibration_images=8 if precision == "int8" else None,
        output=str(folder / f"net_{precision}.param"),
    )  # fmt: skip
    return Exported(checkpoint, convert(options, lambda line: None).path)


@pytest.fixture(scope="session")
def network(tmp_path_factory) -> Exported:
    """FCOS with GroupNorm and distances in strides, 4 classes, in fp32."""
    for name in ("onnxruntime", "pnnx", "ncnn"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("ncnn")
    return export(write_checkpoint(folder / "small.pth", small_config("fcos-centre")), "fp32", None, folder)


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    """An image of 150 x 110 px with coloured rectangles on noise."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (110, 150, 3), dtype=np.uint8)
    for left, top, side, colour in ((10, 20, 40, (255, 0, 0)), (70, 50, 50, (0, 200, 255)), (100, 5, 30, (0, 0, 0))):
        image[top : top + side, left : left + side] = colour
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    cv2.imwrite(str(path), image)
    return path
