"""Sources of images (files, folders, videos, cameras) and their output files. Frames are streamed."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fcos_train.data.depth import depth_note
from fcos_train.data.images import UnreadableImage, try_read_image
from fcos_train.infer.images import SUFFIXES, write_image
from mmcv_overrides.errors import UserError
from mmcv_overrides.regular_files import special

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")
DRAWN = "_pred"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """One image u8 [H, W, 3] BGR, its path or another name for it, and what the user should know of it."""

    name: str
    image: np.ndarray
    note: str | None = None


class Pictures:
    """One or several image files.

    Args:
        paths: the files, in order.

    Attributes:
        skipped: those of several files that cannot be read, as far as they were reached.
        length: number of files.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths, self.length = paths, len(paths)
        self.skipped: list[UnreadableImage] = []

    def __iter__(self) -> Iterator[Frame]:
        """Read the images in order; of several, those that cannot be read are skipped.

        Raises:
            UnreadableImage: the only image cannot be read.
        """
        self.skipped = []
        for path in self.paths:
            image = try_read_image(path)
            if not isinstance(image, UnreadableImage):
                yield Frame(str(path), image, depth_note(path, image))
            elif len(self.paths) == 1:
                raise image
            else:
                self.skipped.append(image)

    def sink(self, folder: Path) -> PictureSink:
        """Output files in a folder, one per image."""
        return PictureSink(folder)


class Video:
    """A video file, or a camera given by its number.

    Attributes:
        length: number of frames by the header of the file; None: unknown.

    Raises:
        UserError: OpenCV cannot open it.
    """

    def __init__(self, source: str | Path | int) -> None:
        self.source = source
        capture = self._open()
        self.fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = frames if frames > 0 else None
        capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(self.source if isinstance(self.source, int) else str(self.source))
        if not capture.isOpened():
            what = f"camera {self.source}" if isinstance(self.source, int) else f"the video {self.source}"
            raise UserError(f"cannot open {what}: OpenCV finds no frame that it can decode")
        return capture

    def __iter__(self) -> Iterator[Frame]:
        """Read the frames in order.

        Raises:
            UserError: no frame can be decoded.
        """
        capture, count = self._open(), 0
        try:
            while True:
                good, image = capture.read()
                if not good:
                    break
                count += 1
                yield Frame(f"{self.source} frame {count}", image)
        finally:
            capture.release()
        if not count:
            raise UserError(f"{self.source} holds no frame that can be decoded")

    def sink(self, folder: Path) -> VideoSink:
        """Output video in a folder."""
        if isinstance(self.source, int):
            return VideoSink(folder / f"camera{self.source}{DRAWN}.mp4", self.fps)
        path = Path(self.source)
        suffix = ".avi" if path.suffix.lower() == ".avi" else ".mp4"
        return VideoSink(folder / f"{path.stem}{DRAWN}{suffix}", self.fps)


class PictureSink:
    """Writes each image as ``<stem>_pred.jpg``; two inputs with the same stem do not overwrite each other.

    Args:
        folder: of the files.

    Attributes:
        written: the files so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: list[Path] = []

    def write(self, frame: Frame, drawn: np.ndarray) -> Path:
        """Write the drawn image u8 [H, W, 3] BGR of a frame; returns its file."""
        source = Path(frame.name)
        path = self.folder / f"{source.stem}{DRAWN}.jpg"
        if path in self.written:
            path = self.folder / f"{source.stem}_{source.suffix.lstrip('.')}{DRAWN}.jpg"
        self.written.append(write_image(path, drawn))
        return path

    def close(self) -> None:
        """Nothing to finish."""


class VideoSink:
    """Writes frames to one video of the size of the first frame.

    Args:
        path: of the video. fps: its frame rate.

    Attributes:
        written: the video, once it is open.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.written: list[Path] = []
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: Frame, drawn: np.ndarray) -> Path:
        """Append the drawn image u8 [H, W, 3] BGR of a frame; returns the video.

        Raises:
            UserError: the folder is not writable, or OpenCV has no codec for the video.
        """
        if self._writer is None:
            self._size = (drawn.shape[1], drawn.shape[0])
            self._writer = self._open()
            self.written.append(self.path)
        self._writer.write(drawn)
        return self.path

    def _open(self) -> cv2.VideoWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error
        codecs = {".avi": ("MJPG",), ".mp4": ("mp4v", "avc1")}[self.path.suffix]
        for path, codec in [*((self.path, codec) for codec in codecs), (self.path.with_suffix(".avi"), "MJPG")]:
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), self.fps, self._size)
            if writer.isOpened():
                self.path = path
                return writer
        raise UserError(f"cannot write the video {self.path}: folder not writable, or OpenCV has no codec for it")

    def close(self) -> None:
        """Finish the file; without this it has no index."""
        if self._writer is not None:
            self._writer.release()


def open_source(source: str | Path) -> Pictures | Video:
    """Open an image file, a folder of images, a pattern (``*.png``), a video file, or a camera given by its number.

    Raises:
        UserError: it does not exist, is of an unknown kind, cannot be opened, or is a folder or a pattern without
            images.
    """
    path = Path(source)
    if path.is_dir():
        return Pictures(_images_in(path))
    if not path.exists():
        if str(source).isdigit():
            return Video(int(str(source)))
        if (scheme := _SCHEME.match(str(source))) is not None:
            raise UserError(
                f"--img {source}: {scheme[1]} addresses are not read; save the image or the video as a file first, "
                "and give the file"
            )
        if glob.has_magic(str(source)):
            return _matching(str(source))
        raise UserError(f"--img {source}: there is no such file or folder")
    kind = special(path.stat().st_mode)
    if kind is not None:
        raise UserError(f"--img {source}: it is {kind}, not an image or a video; a camera is given by its number")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return Video(path)
    return Pictures([path])


def _matching(pattern: str) -> Pictures | Video:
    """The images that match a pattern, or the one video."""
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]
    images = _images_of(found)
    videos = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES]
    if images:
        return Pictures(images)
    if len(videos) == 1:
        return Video(videos[0])
    what = f"{len(videos)} videos match; give one of them" if videos else f"no image matches ({', '.join(SUFFIXES)})"
    raise UserError(f"--img {pattern}: {what}")


def _images_of(paths: Iterable[Path]) -> list[Path]:
    """The images among some paths by name, without the output files of an earlier run.

    Links are followed: the user named the folder and may have linked images into it.
    """
    images = sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())
    stems = {path.stem for path in images}
    return [p for p in images if not (p.stem.endswith(DRAWN) and p.stem.removesuffix(DRAWN) in stems)]


def _images_in(folder: Path) -> list[Path]:
    """The images of a folder."""
    images = _images_of(folder.iterdir())
    if not images:
        raise UserError(f"the folder {folder} holds no image ({', '.join(SUFFIXES)})")
    return images
