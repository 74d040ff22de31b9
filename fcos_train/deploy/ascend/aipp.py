"""AIPP files: they put the normalisation into an `.om`, which then takes pixels u8 [H, W, 3]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fcos_train.deploy.parts.input_rule import InputRule
from fcos_train.deploy.parts.session import Session
from mmcv_overrides.errors import UserError
from mmcv_overrides.regular_files import read_text

_FIELD = re.compile(r"(\w+)\s*:\s*\"?([\w.+-]+)\"?")
_KNOWN = re.compile(
    r"aipp_mode|related_input_rank|input_format|src_image_size_[wh]|csc_switch|rbuv_swap_switch|crop|padding"
    r"|(mean|min|var_reci)_chn_[0-2]"
)


def aipp_text(rule: InputRule) -> str:
    """Compose a static AIPP configuration for u8 images of three channels.

    CANN computes `(pixel - mean_chn - min_chn) * var_reci_chn`, where mean_chn is the integer part of the mean and
    min_chn the rest. The images must have the channel order of the network and be padded with the mean instead of 0,
    as `ascend preprocess --aipp` does.
    """
    lines = [
        "aipp_op {",
        "    aipp_mode : static",
        "    input_format : RGB888_U8",
        f"    src_image_size_w : {rule.width}",
        f"    src_image_size_h : {rule.height}",
        "    csc_switch : false",
        "    rbuv_swap_switch : false",
    ]
    for channel, mean in enumerate(rule.mean):
        lines.append(f"    mean_chn_{channel} : {int(mean)}")
    for channel, mean in enumerate(rule.mean):
        lines.append(f"    min_chn_{channel} : {mean - int(mean):.7g}")
    for channel, std in enumerate(rule.std):
        lines.append(f"    var_reci_chn_{channel} : {1 / std:.8g}")
    return "\n".join([*lines, "}"]) + "\n"


@dataclass(frozen=True)
class Aipp:
    """What an AIPP file does to pixels: swap the first and third channel, then `(pixel - mean) * factor`.

    Attributes:
        size: (H, W) of the images.
        swap: whether channels are swapped.
        mean, factor: f32 [3], per channel after the swap.
    """

    size: tuple[int, int]
    swap: bool
    mean: np.ndarray
    factor: np.ndarray

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Normalise pixels u8 [N, H, W, 3] to the input of the network, f32 [N, 3, H, W]."""
        pixels = pixels[..., ::-1] if self.swap else pixels
        planes = (pixels.astype(np.float32) - self.mean) * self.factor
        return np.ascontiguousarray(planes.transpose(0, 3, 1, 2))


def read_aipp(path: str | Path) -> Aipp:
    """Read a static configuration for RGB888_U8 images of the network's size.

    Raises:
        UserError: the file is absent, has no `aipp_op`, or uses other features (dynamic, YUV, colour conversion, crop,
            padding), which only CANN implements.
    """
    text = re.sub(r"#.*", "", read_text(path, "AIPP file"))
    body = re.fullmatch(r"\s*aipp_op\s*\{([^{}]*)\}\s*", text)
    fields = dict(_FIELD.findall(body[1])) if body else {}
    if not fields.get("src_image_size_w", "").isdecimal() or not fields.get("src_image_size_h", "").isdecimal():
        raise UserError(
            f"{path} is not an AIPP file of one aipp_op {{ ... }} with src_image_size_w and src_image_size_h"
        )
    beyond = [f"{key} : {value}" for key, value in fields.items() if not _without_card(key, value)]
    if beyond:
        raise UserError(
            f"{path} asks for {', '.join(beyond)}, which only CANN does; without a card AIPP is a static mode, "
            "RGB888_U8 pictures of the network's size, mean_chn, min_chn and var_reci_chn, "
            "as fcos-train ascend om --aipp writes it"
        )
    try:
        mean = [float(fields.get(f"mean_chn_{c}", 0)) + float(fields.get(f"min_chn_{c}", 0)) for c in range(3)]
        factor = [float(fields.get(f"var_reci_chn_{c}", 1)) for c in range(3)]
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    size = int(fields["src_image_size_h"]), int(fields["src_image_size_w"])
    return Aipp(
        size, _on(fields.get("rbuv_swap_switch", "false")), np.array(mean, np.float32), np.array(factor, np.float32)
    )


def _on(value: str) -> bool:
    return value.lower() in ("true", "1")


def _without_card(key: str, value: str) -> bool:
    """Whether a field is implemented here."""
    wanted = {"aipp_mode": "static", "input_format": "RGB888_U8", "related_input_rank": "0"}.get(key, value)
    return (
        bool(_KNOWN.fullmatch(key))
        and value == wanted
        and not (key in ("csc_switch", "crop", "padding") and _on(value))
    )


class AippSession(Session):
    """A model with the normalisation of an AIPP file: takes pixels, like an `.om` that was made with the file.

    Args:
        session: runs the model. path: of the AIPP file.

    Raises:
        UserError: the file is for another input size than the model's.
    """

    def __init__(self, session: Session, path: str | Path) -> None:
        self._session, self._aipp = session, read_aipp(path)
        self.path, self.outputs, self.input_name = session.path, session.outputs, session.input_name
        self.batch, self.height, self.width = session.batch, session.height, session.width
        if self._aipp.size != (self.height, self.width):
            raise UserError(
                f"{path} is for pictures of {self._aipp.size[0]}x{self._aipp.size[1]} (H x W), "
                f"{session.path} takes {self.height}x{self.width}"
            )
        self.kind, self.sample_shape = "u1", (self.height, self.width, 3)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch u8 [batch, H, W, 3]."""
        return self._session.run(self._aipp(images))
