"""Runs the classic program on an image or a list of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fcos_train.data.images import UnreadableImage, try_read_image
from fcos_train.deploy.decoder import Boxes
from fcos_train.deploy.ncnn.classic import Preparation, Program, lines, packed, preparation
from fcos_train.deploy.ncnn.options import NcnnDemoOptions
from fcos_train.deploy.ncnn.session import Network
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole
from mmcv_overrides.regular_files import read_text

Say = Callable[[str], None]


def demo(options: NcnnDemoOptions, say: Say, note: Say) -> None:
    """Detect objects and print the classic lines.

    Args:
        say: prints a line of the result. note: prints a line about it.

    Raises:
        UserError: a fault in the files of the network, or an image that cannot be read; the other images of a list
            are processed before.
    """
    images = _listed(options.image) if options.is_list else [options.image]
    param, weights = options.files
    prepared = preparation(param)
    program = Program(Network(param, weights), prepared, options.size, options.thresholds)
    if prepared.note:
        note(prepared.note)
    drawing = _Drawing(options.show_dir, prepared, note) if options.show_dir else None
    unreadable = []
    for path in images:
        if options.is_list:
            say(f"processing file {path}")
        image = try_read_image(path)
        if isinstance(image, UnreadableImage):
            unreadable.append(image)
            if options.is_list:
                note(f"error when processing {path}: {image.reason}")
            continue
        maps = program.maps(image)
        if options.maps:
            write_whole(options.maps, packed(maps))
        found = program.decode(maps)
        original = found._replace(boxes=program.rule.restore(found.boxes, image.shape[1], image.shape[0]))
        for line in lines(program.levels, original if options.original else found):
            say(line)
        if drawing:
            drawing.add(path, image, original)
    if unreadable and not options.is_list:
        raise unreadable[0]
    if unreadable:
        raise UserError(f"{len(unreadable)} of {len(images)} images of {options.image} could not be read; see above")


def _listed(path: Path) -> list[Path]:
    """The images that a list names, one per line."""
    names = [line.strip() for line in read_text(path, "list of images").splitlines()]
    found = [Path(name) for name in names if name]
    if not found:
        raise UserError(f"{path} names no image; write one path per line")
    return found


class _Drawing:
    """Writes images with the detections drawn."""

    def __init__(self, folder: str, prepared: Preparation, note: Say) -> None:
        from fcos_train.infer.sources import PictureSink

        Path(folder).mkdir(parents=True, exist_ok=True)
        self._sink, self._classes, self._note = PictureSink(Path(folder)), prepared.classes, note

    def add(self, path: Path, image: np.ndarray, found: Boxes) -> None:
        """Draw the boxes, in pixels of the image."""
        from fcos_train.infer.detector import Detections
        from fcos_train.infer.draw import draw
        from fcos_train.infer.sources import Frame

        detections = Detections(found.boxes.astype(np.float32), found.scores, found.labels)
        written = self._sink.write(Frame(str(path), image), draw(image, detections, self._classes, score_thr=0.0))
        self._note(f"drawn: {written}")
