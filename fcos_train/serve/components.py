"""Gradio's image and video components, changed to hand on files as they came and to write none.

Methods are replaced on the component, not in a subclass: beside the file of a subclass, gradio writes a ``.pyi``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
from gradio.data_classes import Base64ImageData, FileData, ImageData

from fcos_train.serve.limits import Refused
from mmcv_overrides.errors import UserError

QUALITY = 90  # of the JPEG that the page shows


def uploaded_image(**look: Any) -> gr.Image:
    """An image that is uploaded, pasted or taken with a camera; functions get the bytes of the file, not decoded.

    Args:
        look: arguments of ``gradio.Image``.
    """
    image = gr.Image(**look, buttons=[])
    return _with(image, preprocess=_content, async_move_resource_to_block_cache=_without_addresses(image))


def shown_image(**look: Any) -> gr.Image:
    """A picture u8 [H, W, 3] BGR that is sent within the answer, so that moving a slider writes no files.

    Args:
        look: arguments of ``gradio.Image``.
    """
    # The label would lie over boxes in the corner.
    return _with(gr.Image(**look, show_label=False, interactive=False), postprocess=_inline)


def uploaded_video(**look: Any) -> gr.Video:
    """A video that is uploaded or recorded; functions get the path of its file, not converted.

    Args:
        look: arguments of ``gradio.Video``.
    """
    video = gr.Video(**look, buttons=[])
    return _with(video, preprocess=_path, async_move_resource_to_block_cache=_without_addresses(video))


def fault(error: UserError) -> gr.Error:
    """A refusal as the page shows it."""
    return gr.Error(str(error), title="Not accepted", print_exception=False)


@contextmanager
def refusals_shown() -> Iterator[None]:
    """Refusals within are shown on the page.

    Raises:
        gradio.Error: the page shows it.
    """
    try:
        yield
    except UserError as error:
        raise fault(error) from None


def _with(component: Any, **methods: Callable) -> Any:
    for name, method in methods.items():
        setattr(component, name, method)
    return component


def _content(payload: ImageData | None) -> bytes | None:
    """The content of the file; of a camera's picture, what is in its ``data:`` address."""
    if payload is None:
        return None
    if payload.url and payload.url.startswith("data:"):
        try:
            return base64.b64decode(payload.url.partition(",")[2], validate=True)
        except binascii.Error:
            raise fault(Refused(400, "The picture of the camera is damaged.")) from None
    return Path(payload.path).read_bytes() if payload.path else None


def _path(payload: FileData | None) -> str | None:
    return payload.path if payload else None


def _inline(picture: np.ndarray | None) -> Base64ImageData | None:
    """The picture as a ``data:`` address."""
    if picture is None:
        return None
    content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return Base64ImageData(url=f"data:image/jpeg;base64,{base64.b64encode(content).decode()}")


def _without_addresses(component: gr.components.Component) -> Callable:
    """Gradio's way from an upload to the file, without fetching the address that a client may name instead."""
    upstream = component.async_move_resource_to_block_cache

    async def place(url_or_file_path: Any) -> str | None:
        if "://" in str(url_or_file_path):
            raise fault(Refused(400, "The page takes uploaded files; it fetches no addresses."))
        return await upstream(url_or_file_path)

    return place
