"""Output files of drawn images and videos; each appears under its name when it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fcos_train.infer.images import write_image
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import unguessable

if TYPE_CHECKING:
    import supervision as sv

    from fcos_train.infer.sources import Frame

DRAWN = "_pred"
CODECS = {".avi": ("MJPG",), ".mp4": ("mp4v", "avc1")}


class Names:
    """Stems of output files, each of them given once: two inputs of the same name do not overwrite each other."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, file_name: str) -> str:
        """The stem of a file name; where it is taken, with the suffix appended, then also with a number."""
        path = Path(file_name)
        second = f"{path.stem}_{path.suffix.lstrip('.')}" if path.suffix else f"{path.stem}_2"
        for stem in chain((path.stem, second), (f"{second}_{number}" for number in count(2))):
            if stem not in self._taken:
                self._taken.add(stem)
                return stem
        raise AssertionError("count() does not end")


class PictureSink:
    """Writes each image as ``<stem>_pred.jpg``.

    Args:
        folder: of the files. names: given to other outputs too; None: of this sink alone.

    Attributes:
        written: the files so far.
    """

    def __init__(self, folder: Path, names: Names | None = None) -> None:
        self.folder, self.names = folder, names or Names()
        self.written: list[Path] = []

    def write(self, frame: Frame, drawn: np.ndarray, stem: str | None = None) -> Path:
        """Write the drawn image u8 [H, W, 3] BGR of a frame; returns its file.

        Args:
            stem: of the file; None: taken from the names.
        """
        path = self.folder / f"{stem or self.names.take(frame.file_name)}{DRAWN}.jpg"
        self.written.append(write_image(path, drawn))
        return path

    def close(self) -> None:
        """Nothing to finish."""

    def abandon(self) -> None:
        """Nothing is unfinished."""


class VideoSink:
    """Writes frames to one video of the size of the first frame, which gets its name when it is closed.

    Args:
        path: of the video. fps: its frame rate.

    Attributes:
        written: the video, once it is open.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.written: list[Path] = []
        self._stack = ExitStack()
        self._video: sv.VideoSink | None = None

    def write(self, frame: Frame, drawn: np.ndarray, stem: str | None = None) -> Path:
        """Append the drawn image u8 [H, W, 3] BGR of a frame; returns the video.

        Raises:
            UserError: the folder is not writable, or OpenCV has no codec for the video.
        """
        if self._video is None:
            self._size = (drawn.shape[1], drawn.shape[0])
            self._video = self._open()
            self.written.append(self.path)
        if (drawn.shape[1], drawn.shape[0]) != self._size:  # a stream may change its size; the file cannot
            drawn = cv2.resize(drawn, self._size, interpolation=cv2.INTER_AREA)
        self._video.write_frame(drawn)
        return self.path

    def _open(self) -> sv.VideoSink:
        import supervision as sv

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error
        info = sv.VideoInfo(*self._size, fps=self.fps)
        wanted = [(self.path, codec) for codec in CODECS[self.path.suffix]]
        for path, codec in [*wanted, (self.path.with_suffix(".avi"), "MJPG")]:
            self._scratch = unguessable(path, path.suffix)
            with suppress(RuntimeError):
                video = self._stack.enter_context(sv.VideoSink(str(self._scratch), info, codec))
                self.path = path
                return video
        raise UserError(f"cannot write the video {self.path}: folder not writable, or OpenCV has no codec for it")

    def close(self) -> None:
        """Finish the file, without which it has no index, and give it its name."""
        if self._video is None:
            return
        self._stack.close()
        self._video = None
        try:
            os.replace(self._scratch, self.path)
        except OSError as error:
            raise UserError(f"cannot write the video {self.path}: {error.strerror}") from error

    def abandon(self) -> None:
        """Remove what is not finished."""
        if self._video is not None:
            self._stack.close()
            self._video = None
            self._scratch.unlink(missing_ok=True)


@contextmanager
def finished(sink: PictureSink | VideoSink) -> Iterator[PictureSink | VideoSink]:
    """Close the sink after the block, also when the user interrupts it; after an error, remove what is not finished."""
    try:
        yield sink
    except Exception:
        sink.abandon()
        raise
    except BaseException:
        sink.close()
        raise
    sink.close()
