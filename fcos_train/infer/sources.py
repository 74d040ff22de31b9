"""Sources of images: files, folders, patterns, web addresses, videos, cameras, streams. Frames are streamed."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fcos_train.data.depth import depth_note
from fcos_train.data.images import UnreadableImage, read_image, too_large
from fcos_train.infer import web
from fcos_train.infer.images import SUFFIXES
from fcos_train.infer.sinks import DRAWN, Names, PictureSink, VideoSink
from mmcv_overrides.errors import UserError
from mmcv_overrides.regular_files import special

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")
STREAM_SUFFIXES = (*VIDEO_SUFFIXES, ".m3u8", ".mjpg", ".mjpeg", ".ts")  # of web addresses
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp")
STREAM_LIMITS = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 10_000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 30_000]
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """One image u8 [H, W, 3] BGR, its path or another name for it, and what the user should know of it.

    Attributes:
        file: name of the image file that it is, or that a frame of a video would be; empty: that of the path.
    """

    name: str
    image: np.ndarray
    note: str | None = None
    file: str = ""

    @property
    def file_name(self) -> str:
        """Name of the image file, without its folder."""
        return self.file or Path(self.name).name


class Pictures:
    """One or several image files or web addresses of images.

    Args:
        paths: the files, in order.
        tolerant: skip what cannot be read also where it is the only one.

    Attributes:
        skipped: those of several files that cannot be read, as far as they were reached.
        length: number of files.
    """

    def __init__(self, paths: Sequence[Path | str], tolerant: bool = False) -> None:
        self.paths, self.tolerant = list(paths), tolerant
        self.length = len(self.paths)
        self.skipped: list[UnreadableImage] = []

    def __iter__(self) -> Iterator[Frame]:
        """Read the images in order; of several, those that cannot be read are skipped.

        Raises:
            UnreadableImage: the only image cannot be read.
        """
        self.skipped = []
        for path in self.paths:
            try:
                frame = self._frame(path)
            except UnreadableImage as fault:
                if len(self.paths) == 1 and not self.tolerant:
                    raise
                self.skipped.append(fault)
            else:
                yield frame

    def _frame(self, path: Path | str) -> Frame:
        if isinstance(path, str):
            return Frame(web.shown(path), web.fetch_image(path), file=web.file_name(path))
        image = read_image(path)
        return Frame(str(path), image, depth_note(path, image))

    def sink(self, folder: Path, names: Names | None = None) -> PictureSink:
        """Output files in a folder, one per image."""
        return PictureSink(folder, names)


class Video:
    """A video file, a camera given by its number, or the address of a stream.

    Attributes:
        name: for messages. file_name: for the names of output files. live: it ends when the user ends it.
        count: frames that were decoded. stated: frames that the header of a file announces, 0 if none.
        length: the same for a progress bar, None if unknown.

    Raises:
        UserError: OpenCV cannot open it, or its frames are larger than the limit of pixels.
    """

    def __init__(self, source: str | Path | int) -> None:
        self.source, self.count = source, 0
        scheme = _SCHEME.match(source) if isinstance(source, str) else None
        self.live = isinstance(source, int) or (scheme is not None and scheme[1].lower() in STREAM_SCHEMES)
        self.name = web.shown(str(source)) if scheme else str(source)
        self._opened: cv2.VideoCapture | None = self._open()
        self.fps = self._opened.get(cv2.CAP_PROP_FPS) or 25.0
        self.stated = 0 if self.live else max(int(self._opened.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self.length = self.stated or None
        size = [int(self._opened.get(one)) for one in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        if (fault := too_large((size[0], size[1]))) is not None:
            raise UserError(f"cannot read the video {self.name}: {fault}")

    @property
    def file_name(self) -> str:
        """The name of the file; ``camera0.mp4`` for a camera; made of the address for a stream."""
        if isinstance(self.source, int):
            return f"camera{self.source}.mp4"
        return web.file_name(str(self.source)) if "://" in str(self.source) else Path(self.source).name

    def _open(self) -> cv2.VideoCapture:
        if isinstance(self.source, int):
            capture = cv2.VideoCapture(self.source)
        elif "://" in str(self.source):
            scheme, separator, rest = str(self.source).partition("://")
            capture = cv2.VideoCapture(scheme.lower() + separator + rest, cv2.CAP_FFMPEG, STREAM_LIMITS)
        else:
            capture = cv2.VideoCapture(str(self.source))
        if not capture.isOpened():
            if "://" in str(self.source):
                raise UserError(f"cannot open the stream {self.name}: no answer, or nothing that OpenCV can decode")
            what = f"camera {self.source}" if isinstance(self.source, int) else f"the video {self.name}"
            raise UserError(f"cannot open {what}: OpenCV finds no frame that it can decode")
        return capture

    def __iter__(self) -> Iterator[Frame]:
        """Read the frames in order; of a file that ends before its header says, the last frame carries a note.

        Raises:
            UserError: no frame can be decoded.
        """
        capture = self._opened or self._open()
        self._opened, self.count = None, 0
        stem = Path(self.file_name).stem
        try:
            good, image = capture.read()
            while good:
                self.count += 1
                good, following = capture.read()
                note = None
                if not good and self.count < self.stated:
                    note = f"{self.name}: ends after {self.count} of the {self.stated} frames that its header announces"
                yield Frame(f"{self.name} frame {self.count}", image, note, f"{stem}_{self.count:06d}.jpg")
                image = following
        finally:
            capture.release()
        if not self.count:
            raise UserError(f"{self.name} holds no frame that can be decoded")

    def sink(self, folder: Path, names: Names | None = None) -> VideoSink:
        """Output video in a folder."""
        stem = (names or Names()).take(self.file_name)
        suffix = ".avi" if Path(self.file_name).suffix.lower() == ".avi" else ".mp4"
        return VideoSink(folder / f"{stem}{DRAWN}{suffix}", self.fps)


def open_sources(sources: Iterable[str | Path]) -> list[Pictures | Video]:
    """:func:`open_source` of several; images that follow each other become one source.

    Raises:
        UserError: one of them does not exist or cannot be opened.
    """
    found: list[Pictures | Video] = []
    for one in (open_source(source, "") for source in sources):
        last = found[-1] if found else None
        if isinstance(one, Pictures) and isinstance(last, Pictures):
            last.paths += one.paths
        else:
            found.append(one)
    for one in found:
        if isinstance(one, Pictures):
            one.tolerant = len(found) > 1
    return found


def open_source(source: str | Path, flag: str = "--img ") -> Pictures | Video:
    """Open an image file, a folder of images, a pattern (``*.png``), a video file, a camera given by its number, or a
    web address of an image, a video or a stream.

    Args:
        flag: what stands before the source in messages.

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
            return _at_address(str(source), scheme[1].lower(), flag)
        if glob.has_magic(str(source)):
            return _matching(str(source), flag)
        raise UserError(f"{flag}{source}: there is no such file or folder")
    kind = special(path.stat().st_mode)
    if kind is not None:
        raise UserError(f"{flag}{source}: it is {kind}, not an image or a video; a camera is given by its number")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return Video(path)
    return Pictures([path])


def _at_address(address: str, scheme: str, flag: str) -> Pictures | Video:
    """The image, video or stream at a web address."""
    if scheme in STREAM_SCHEMES or (web.is_web(address) and web.file_name(address).lower().endswith(STREAM_SUFFIXES)):
        return Video(address)
    if web.is_web(address):
        return Pictures([address])
    raise UserError(
        f"{flag}{web.shown(address)}: {scheme} addresses are not read (http, https, {', '.join(STREAM_SCHEMES)} are); "
        "save the image or the video as a file first, and give the file"
    )


def _matching(pattern: str, flag: str) -> Pictures | Video:
    """The images that match a pattern, or the one video."""
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]
    images = _images_of(found)
    videos = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES]
    if images:
        return Pictures(images)
    if len(videos) == 1:
        return Video(videos[0])
    what = f"{len(videos)} videos match; give one of them" if videos else f"no image matches ({', '.join(SUFFIXES)})"
    raise UserError(f"{flag}{pattern}: {what}")


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
