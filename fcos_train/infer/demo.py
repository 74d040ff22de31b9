"""Runs a checkpoint on images or a video: writes them with the detections drawn, and prints one line each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

from fcos_train.infer.base import BaseDetector
from fcos_train.infer.detector import Detector
from fcos_train.infer.draw import draw, zoom_for
from fcos_train.infer.images import write_image
from fcos_train.infer.options import DemoOptions, PredictOptions
from fcos_train.infer.predict import FRAMES_PER_LINE, describe, detected, skipped_message
from fcos_train.infer.sinks import finished
from fcos_train.infer.sources import Frame, Pictures, open_source
from fcos_train.infer.validation_images import validation_images
from fcos_train.progress import track
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

WINDOW = "FCOS-Train"
ROOT = Path(__file__).resolve().parents[2]


def load_checkpoint(options: DemoOptions | PredictOptions) -> Detector:
    """The detector of a checkpoint."""
    return Detector.from_checkpoint(
        options.checkpoint,
        options.config,
        options.device,
        trust=options.trust_checkpoint,
        safe=options.safe_config,
    )


def demo(
    options: DemoOptions,
    say: Callable[[str], None] = print,
    load: Callable[[DemoOptions], BaseDetector] = load_checkpoint,
) -> list[Path]:
    """Detect, draw and write.

    Args:
        say: prints a line.
        load: makes the detector, from a checkpoint or from another kind of model.

    Returns:
        the files that were written: ``<stem>_pred.jpg`` per image, ``<stem>_pred.mp4`` or ``.avi`` for a video.

    Raises:
        UserError: a fault in the checkpoint, its configuration, the device or the input. Images of a folder that cannot
            be read are named at the end, after all others have been drawn.
    """
    source = open_source(options.img) if options.img is not None else None
    detector = load(options)
    for line in (*detector.notices, detector.device_reason):
        say(printable(line))
    folder = Path(options.show_dir)
    if source is None:
        path, why = default_image(detector.config, folder)
        say(printable(f"no --img given: {path} ({why})"))
        source = open_source(path)
    window = _Window.open(say) if options.show else None
    with finished(source.sink(folder)) as sink:
        seen = track(detected(detector, source), "detecting", source.length)
        for number, (frame, found, seconds) in enumerate(seen, start=1):
            drawn = draw(frame.image, found, detector.classes, options.score_thr, zoom_for(frame.image))
            sink.write(frame, drawn)
            if frame.note:
                say(printable(frame.note))
            if isinstance(source, Pictures) or number % FRAMES_PER_LINE == 1:
                say(describe(frame.name, found.above(options.score_thr), detector, seconds))
            if window and not window.show(drawn, wait=isinstance(source, Pictures)):
                break
    skipped = source.skipped if isinstance(source, Pictures) else []
    if skipped and not sink.written:
        raise UserError(skipped_message(skipped))
    say(printable(f"{'picture' if len(sink.written) == 1 else 'pictures'} in {_where(sink.written)}"))
    if skipped:
        raise UserError(skipped_message(skipped))
    return sink.written


def default_image(config: Config, scratch: Path) -> tuple[Path, str]:
    """Choose an image for a demonstration: ``demo/demo.jpg``, the first validation image, or a generated one.

    Args:
        config: of the checkpoint; its validation set is used if it is on this machine.
        scratch: folder for a generated image.

    Returns:
        the path, and why it was chosen.
    """
    for folder in (Path.cwd(), ROOT):
        if (folder / "demo" / "demo.jpg").is_file():
            return folder / "demo" / "demo.jpg", "the demo image"
    for path in validation_images(config, annotated=True)[:1]:
        return path, "the first validation image with an object"
    from fcos_train.data.shapes import draw_image

    image, _, _ = draw_image(np.random.default_rng(0), (320, 240))
    return write_image(scratch / "demo_shapes.jpg", image), "generated; the validation images are not on this machine"


def _where(written: list[Path]) -> str:
    """The file, or the folder and number of files, for the last line."""
    if len(written) == 1:
        return str(written[0])
    folder = written[0].parent if written else Path(".")
    return f"{folder}{os.sep} ({len(written)} files, *_pred.*)"


class _Window:
    """A window on the screen; closed with q or Esc."""

    @classmethod
    def open(cls, say: Callable[[str], None]) -> _Window | None:
        """Open the window; None, with a line that says why, if that is not possible."""
        # Checked first, because OpenCV's Qt ends the process when it cannot connect to a display.
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            say("--show: no display is available (DISPLAY is not set); pictures are only written to files")
            return None
        try:
            cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
        except cv2.error:
            say("--show: this build of OpenCV has no GUI (opencv-python-headless); pictures are only written to files")
            return None
        return cls()

    def show(self, picture: np.ndarray, wait: bool) -> bool:
        """Show a picture u8 [H, W, 3] until a key is pressed (``wait``) or for a moment; False to stop."""
        cv2.imshow(WINDOW, picture)
        return cv2.waitKey(0 if wait else 1) & 0xFF not in (ord("q"), 27)


__all__ = ["DemoOptions", "Frame", "default_image", "demo", "describe"]
