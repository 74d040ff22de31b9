"""How a model's input is prepared from an image, and how its boxes are mapped back to the image.

Shape symbols: H, W height and width of the network input; h, w of the image; s the scale between them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from mmcv_overrides.errors import UserError


@dataclass(frozen=True)
class InputRule:
    """Resize, normalise, pad.

    Attributes:
        name: of the rule, for messages.
        height, width: size of the network input in pixels.
        mean, std: per channel, in the order of the network's channels.
        to_rgb: the network takes RGB; images are read as BGR.
        centred: the resized image is placed in the middle of the input, otherwise at its top left.
        half_up: resized sides are rounded to the nearest pixel, otherwise rounded down.
        keep_ratio: one scale for both sides; otherwise the image is stretched to the input.
        prob_thres: results below this score are not reported.
        fill: value of the padding before normalisation, per channel; None: the mean, so that it is 0 afterwards.
        as_trained: boxes are mapped back as in mmdet's evaluation: by the ratio of the rounded sides, and clipped to
            the image. The published tools divide by the scale before rounding, and do not clip.

    Raises:
        UserError: an input size below 1 x 1, or an invalid mean or std.
    """

    name: str
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    to_rgb: bool
    centred: bool
    half_up: bool
    keep_ratio: bool = True
    prob_thres: float = 0.0
    fill: tuple[float, ...] | None = None
    as_trained: bool = False

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UserError(f"the network input must be at least 1x1, not {self.height}x{self.width}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise UserError(f"mean and std need three values each, std without 0; got {self.mean} and {self.std}")

    def at(self, height: int | None, width: int | None) -> InputRule:
        """The same rule for another input size; None keeps that side."""
        return replace(self, height=height or self.height, width=width or self.width)

    def bin_bytes(self, pixels: bool = False) -> int:
        """Size of one input in bytes, as float32 or as u8 pixels."""
        return 3 * self.height * self.width * (1 if pixels else 4)

    def scales(self, w: int, h: int) -> tuple[float, float]:
        """Input pixels per image pixel, horizontally and vertically."""
        across, down = self.width / w, self.height / h
        return (min(across, down),) * 2 if self.keep_ratio else (across, down)

    def resized(self, w: int, h: int) -> tuple[int, int]:
        """Width and height of the resized image, in pixels."""
        nudge = 0.5 if self.half_up else 0.0
        across, down = self.scales(w, h)
        return max(1, int(w * across + nudge)), max(1, int(h * down + nudge))

    def _placed(self, image: np.ndarray) -> tuple[np.ndarray, slice, slice]:
        """The resized image u8 [h', w', 3] in the network's channel order, and its rows and columns in the input."""
        new_w, new_h = self.resized(image.shape[1], image.shape[0])
        small = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
        left = (self.width - new_w) // 2 if self.centred else 0
        top = (self.height - new_h) // 2 if self.centred else 0
        return small[:, :, ::-1] if self.to_rgb else small, slice(top, top + new_h), slice(left, left + new_w)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Prepare an image u8 [h, w, 3] (BGR) as the network takes it: little-endian float32 [3, H, W].

        The padding is 0 after normalisation, as in training.
        """
        small, rows, columns = self._placed(image)
        result = np.zeros((3, self.height, self.width), dtype="<f4")
        levels = np.arange(256, dtype=np.float64)
        for channel in range(3):
            if self.fill:
                result[channel] = (self.fill[channel] - self.mean[channel]) / self.std[channel]
            # Only 256 values can occur: each is computed in double precision and rounded once.
            table = ((levels - self.mean[channel]) / self.std[channel]).astype("<f4")
            result[channel, rows, columns] = table[small[:, :, channel]]
        return result

    def prepare_pixels(self, image: np.ndarray) -> np.ndarray:
        """Prepare an image for a model that normalises itself: u8 [H, W, 3] in the network's channel order.

        The padding is the mean, rounded to an integer pixel value: after normalisation it is 0 up to half a step.
        """
        small, rows, columns = self._placed(image)
        result = np.empty((self.height, self.width, 3), np.uint8)
        result[:] = np.clip(np.rint(self.fill or self.mean), 0, 255)
        result[rows, columns] = small
        return result

    def restore(self, boxes: np.ndarray, w: int, h: int) -> np.ndarray:
        """Map boxes [N, 4] (x1 y1 x2 y2, input pixels) back to pixels of the image, as float64 [N, 4].

        The offset of a centred image is taken to be exactly (W - w*s)/2, as in the published tools; the integer
        padding of :meth:`prepare` differs from that by at most one pixel.
        """
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        if self.as_trained:
            new_w, new_h = self.resized(w, h)
            return np.clip(boxes / np.tile((new_w / w, new_h / h), 2), 0, np.tile((w, h), 2))
        across, down = self.scales(w, h)
        offset = np.zeros(2)
        if self.centred:
            offset[:] = (self.width - w * across) / 2, (self.height - h * down) / 2
        return (boxes - np.tile(offset, 2)) / np.tile((across, down), 2)
