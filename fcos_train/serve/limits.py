"""What is accepted from a client, checked before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np

from fcos_train.data.image_header import header_size
from fcos_train.data.images import undecodable
from fcos_train.serve.options import ServeOptions
from mmcv_overrides.errors import UserError

# Containers of videos by their first bytes. FFmpeg also reads playlists, which name other files and addresses.
_CONTAINERS = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (8, b"AVI "))
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
_MOST_FPS = 120  # a header may state any number


class Refused(UserError):
    """A request that is answered with an HTTP status and one sentence.

    Attributes:
        status: 4xx, the client's fault; 503, too many requests at once.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """The largest inputs.

    Attributes:
        megabytes: of an uploaded file. megapixels: of an image or a frame. seconds: length of a video.
    """

    megabytes: int
    megapixels: int
    seconds: int

    @classmethod
    def of(cls, options: ServeOptions) -> Limits:
        """The limits that a user chose."""
        return cls(options.max_upload, options.max_pixels, options.max_video)

    @property
    def upload(self) -> int:
        """Largest upload, bytes."""
        return self.megabytes * 10**6

    def too_long(self) -> Refused:
        """The answer to an upload of more bytes than are accepted."""
        return Refused(413, f"The upload is larger than the limit of {self.megabytes} MB (--max-upload).")

    def require_size(self, width: int, height: int) -> None:
        """Refuse an image or a video by its width and height, px."""
        if width * height > self.megapixels * 10**6:
            raise Refused(
                413,
                f"The image has {width} x {height} pixels; the limit is {self.megapixels} million (--max-pixels).",
            )

    def image(self, data: bytes) -> np.ndarray:
        """Decode an image file to u8 [H, W, 3] BGR, turned by its EXIF orientation.

        Raises:
            Refused: empty, too large (from its header, before it is decoded), of an unknown format, or damaged.
        """
        if not data:
            raise Refused(400, "There is no image in the request: it is empty (0 bytes).")
        if len(data) > self.upload:
            raise self.too_long()
        size = header_size(data)
        if size is None:
            raise Refused(415, f"The upload is not an image: {undecodable(data, len(data))}.")
        self.require_size(*size)
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            image = None
        if image is None:
            raise Refused(400, f"The image cannot be decoded: it is damaged or incomplete ({len(data)} bytes).")
        return image


class Clip:
    """A video file of a client: its frames, streamed, up to the limits.

    Args:
        path: of the file. limits: of frames and length.

    Attributes:
        fps: frames per second. size: width, height in px. frames: their number by the header, at least 1.

    Raises:
        Refused: not a video, or larger or longer than the limits by its header.
    """

    def __init__(self, path: str, limits: Limits) -> None:
        self.path, self.limits = path, limits
        with open(path, "rb") as file:
            head = file.read(16)
        if not any(head[place:].startswith(mark) for place, mark in _CONTAINERS):
            raise Refused(415, f"The upload is not a video that is read here ({', '.join(VIDEO_SUFFIXES)}).")
        with _opened(path) as capture:
            if not capture.isOpened():
                raise Refused(400, "The video cannot be decoded: it is damaged, incomplete, or of an unknown codec.")
            fps = capture.get(cv2.CAP_PROP_FPS)
            self.fps = min(max(fps, 1.0), _MOST_FPS) if fps > 0 else 25.0  # fps > 0 is false for NaN
            self.size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
            self.frames = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 1)
        limits.require_size(*self.size)
        self._require_length(self.frames)

    def _require_length(self, frames: int) -> None:
        if frames > self.limits.seconds * self.fps:
            raise Refused(
                413, f"The video is longer than {self.limits.seconds} s (--max-video); cut it, and send a part."
            )

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames u8 [H, W, 3] BGR, in order.

        Raises:
            Refused: there are more than the header says and the limit allows, or none that can be decoded.
        """
        count = 0
        with _opened(self.path) as capture:
            while True:
                good, image = capture.read()
                if not good:
                    break
                count += 1
                self._require_length(count)
                yield image
        if not count:
            raise Refused(400, "The video cannot be decoded: it has no frame that OpenCV reads.")


@contextmanager
def _opened(path: str) -> Iterator[cv2.VideoCapture]:
    """A video read by FFmpeg alone: OpenCV's other readers take a name for a pattern of several files."""
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    try:
        yield capture
    finally:
        capture.release()
