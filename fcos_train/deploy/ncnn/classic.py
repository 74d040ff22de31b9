"""The classic ncnn program for FCOS: how it prepares an image, decodes the maps and prints the boxes.

AdelaiDet's users know its lines and read them with scripts. The image is stretched to the input; pixels are BGR minus a
mean; scores are sqrt(class x centerness), thresholded by the class alone; box sizes count as ``x2 - x1 + 1``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fcos_train.deploy.decoder import Boxes, Decoder, DecoderError, DecodeRule
from fcos_train.deploy.ncnn.session import Network
from fcos_train.deploy.parts.description import beside, read_description
from fcos_train.deploy.parts.input_rule import InputRule
from mmcv_overrides.errors import UserError

FINEST = 3  # P3
PARTS = ("centerness", "bbox_reg", "logits")
INPUT = "input_image"
MEAN, STD = (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)
CANDIDATES = 1000  # of each level


class Preparation(NamedTuple):
    """How images are normalised, and names of the classes.

    Attributes:
        mean, std: per channel. to_rgb: the network takes RGB.
        classes: names by label, empty if unknown.
        note: a line for the user where the normalisation is not the classic one.
    """

    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    to_rgb: bool = False
    classes: tuple[str, ...] = ()
    note: str | None = None


def preparation(param: Path) -> Preparation:
    """What the description beside a graph says; the classic normalisation where there is none.

    Raises:
        UserError: the description is of another kind of model, or damaged.
    """
    try:
        place = beside(param)
    except UserError:
        return Preparation()
    content = read_description(place)
    decode = content.get("decode", {})
    if decode.get("kind") != "distance" or not decode.get("stride_units"):
        raise UserError(
            f"{param} is not an FCOS network with distances in strides, by {place.name}: ncnn-demo cannot decode it"
        )
    try:
        mean, std = (tuple(float(value) for value in content[key]) for key in ("mean", "std"))
    except (TypeError, ValueError):
        raise UserError(f"{place}: mean and std must be lists of numbers") from None
    found = Preparation(mean, std, bool(content["bgr_to_rgb"]), tuple(content["classes"]))
    if (mean, std, found.to_rgb) == (MEAN, STD, False):
        return found
    order = "RGB" if found.to_rgb else "BGR"
    text = f"note: normalised as {place.name} says: {order}, mean {_numbers(mean)}, std {_numbers(std)}"
    return found._replace(note=text)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


class Program:
    """The classic program for one network and one size of the input.

    Args:
        network: in ncnn.
        prepared: of :func:`preparation`.
        size: height and width of the input in pixels.
        thresholds: of the class probability, and of the IoU.

    Attributes:
        levels: number of levels of the network, from P3 on.
        rule: how images become inputs.

    Raises:
        UserError: a network without the blobs of FCOS, or a size that does not fit it.
    """

    def __init__(
        self, network: Network, prepared: Preparation, size: tuple[int, int], thresholds: tuple[float, float]
    ) -> None:
        self.network = network
        every = (tuple(f"P{level}{part}" for part in PARTS) for level in count(FINEST))
        found = list(takewhile(lambda names: network.graph.blobs.issuperset(names), every))
        if not found or network.input != INPUT:
            missing = INPUT if found else "P3logits, P3bbox_reg and P3centerness"
            raise UserError(
                f"{network.param} has no {missing}: expected an FCOS network as fcos-train export --target ncnn and "
                "AdelaiDet name it"
            )
        self.levels, self._names = len(found), [name for names in found for name in names]
        multiple = network.graph.side_multiple()
        if any(side % multiple for side in size):
            raise UserError(
                f"H W {size[0]} {size[1]}: the sides must be multiples of {multiple} px, because {network.param} "
                "enlarges maps of that stride by exactly 2"
            )
        self.rule = InputRule(
            "ncnn-demo", *size, prepared.mean, prepared.std, prepared.to_rgb,
            centred=False, half_up=True, keep_ratio=False, as_trained=True,
        )  # fmt: skip
        self._decoder = Decoder(
            DecodeRule(
                strides=tuple(2**level for level in range(FINEST, FINEST + self.levels)),
                stride_units=True,
                sqrt=True,
                rank_by="score",
                score_thr=thresholds[0],
                nms_pre=CANDIDATES,
                iou_thr=thresholds[1],
                iou_extra=1,
                max_per_img=sys.maxsize,
            )
        )

    def maps(self, image: np.ndarray) -> list[tuple[np.ndarray, ...]]:
        """Run the network on an image u8 [h, w, 3] BGR: for each level centerness, distances and class logits."""
        blobs = iter(self.network.run(self.rule.prepare(image), self._names))
        return list(zip(blobs, blobs, blobs, strict=True))

    def decode(self, maps: list[tuple[np.ndarray, ...]]) -> Boxes:
        """The boxes of maps, in pixels of the network input.

        Raises:
            UserError: the maps do not fit one another.
        """
        centerness, distances, logits = zip(*maps, strict=True)
        try:
            return self._decoder(logits, distances, centerness)
        except DecoderError as error:
            raise UserError(f"{self.network.param}: {error}") from error


def packed(maps: list[tuple[np.ndarray, ...]]) -> bytes:
    """The maps of :meth:`Program.maps` as one file.

    Little-endian int32 number of levels; for each level int32 stride, classes, height, width, and its maps as float32.
    """
    content = np.int32(len(maps)).tobytes()
    for level, blobs in enumerate(maps, FINEST):
        content += np.array([2**level, *blobs[2].shape], "<i4").tobytes()
        content += b"".join(blob.astype("<f4").tobytes() for blob in blobs)
    return content


def lines(levels: int, found: Boxes) -> Iterator[str]:
    """What the program prints of an image; coordinates are cut to whole pixels."""
    yield f"FPN level: {levels}"
    yield f"Detect {len(found.boxes)} objects"
    for box, score, label in zip(*found, strict=True):
        corners = " ".join(str(int(value)) for value in box)
        yield f"Bounding box: position({corners}) in category {label} with score {score:.3f}"
