"""Runs a detector over images, videos, cameras and streams, and writes what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np

from fcos_train.data.images import UnreadableImage
from fcos_train.infer.base import BaseDetector
from fcos_train.infer.detections import Detections
from fcos_train.infer.options import PredictOptions
from fcos_train.infer.outputs import Outputs
from fcos_train.infer.slicing import OVERLAP
from fcos_train.infer.sources import Frame, Pictures, Video, open_sources
from fcos_train.progress import track
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import unguessable
from mmcv_overrides.printable import printable

FOLDER = "predictions"
FRAMES_PER_LINE = 50  # a video prints one line per this number of frames
TOP = 3
SHOWN = 5  # skipped images that are named


@dataclass(frozen=True)
class Predicted:
    """What a prediction has written.

    Attributes:
        folder: of all files. images: number of images and frames. objects: number of objects in them.
    """

    folder: Path
    images: int
    objects: int


def predict(
    options: PredictOptions,
    load: Callable[[PredictOptions], BaseDetector],
    say: Callable[[str], None] = print,
) -> Predicted:
    """Detect objects in all sources and write them in the wanted forms.

    Args:
        load: makes the detector. say: prints a line.

    Raises:
        UserError: a fault in the options, the model, a source or the folder. Of several images, those that cannot be
            read are named at the end, after everything else is written.
    """
    sources = open_sources(options.sources)
    folder = _output_folder(options.out)
    detector = load(options)
    for line in (*detector.notices, detector.device_reason):
        say(printable(line))
    images = objects = 0
    with Outputs(options.save, folder, detector.classes, detector.name, say) as outputs:
        for source in sources:
            outputs.begin(source)
            frames = islice(source, options.max_frames) if isinstance(source, Video) else iter(source)
            searched = detected(detector, frames, options.batch_size, options.slice, options.slice_overlap)
            shown = track(searched, "detecting", source.length)
            for number, (frame, every, seconds) in enumerate(shown, start=1):
                found = every.above(options.score_thr)
                images, objects = images + 1, objects + len(found)
                for note in (frame.note, outputs.add(frame, found)):
                    if note:
                        say(printable(note))
                if isinstance(source, Pictures) or number % FRAMES_PER_LINE == 1:
                    say(describe(frame.name, found, detector, seconds))
            outputs.end()
    skipped = [fault for source in sources if isinstance(source, Pictures) for fault in source.skipped]
    if skipped:
        raise UserError(skipped_message(skipped))
    return Predicted(folder, images, objects)


def detected(
    detector: BaseDetector,
    frames: Iterable[Frame],
    batch_size: int = 1,
    slice_wh: tuple[int, int] | None = None,
    overlap: float = OVERLAP,
) -> Iterator[tuple[Frame, Detections, float]]:
    """Frames with their detections and the seconds that each one took; the first includes the warm-up."""
    rest = iter(frames)
    while together := list(islice(rest, 1 if slice_wh else batch_size)):
        start = time.perf_counter()
        found = detector([frame.image for frame in together], batch_size, slice_wh, overlap)
        seconds = (time.perf_counter() - start) / len(together)
        for frame, one in zip(together, found, strict=True):
            yield frame, one, seconds


def describe(name: str, found: Detections, detector: BaseDetector, seconds: float) -> str:
    """A line such as ``street.jpg: 5 objects: car 0.93, car 0.88, person 0.71 and 2 more, 35 ms``."""
    best = np.argsort(-found.scores, kind="stable")[:TOP]
    tops = ", ".join(f"{detector.name(int(found.labels[i]))} {found.scores[i]:.2f}" for i in best)
    more = f" and {len(found) - TOP} more" if len(found) > TOP else ""
    text = "no object" if not len(found) else f"{len(found)} object{'s' if len(found) > 1 else ''}: {tops}{more}"
    return printable(f"{name}: {text}, {1000 * seconds:.0f} ms")


def skipped_message(faults: list[UnreadableImage]) -> str:
    """The message about images that were skipped."""
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    number = f"{len(faults)} image was" if len(faults) == 1 else f"{len(faults)} images were"
    return f"{number} skipped: {'; '.join(map(str, faults[:SHOWN]))}{more}"


def _output_folder(given: str | None) -> Path:
    """The folder that is given, else the first of ``predictions``, ``predictions-2``, ... that is absent or empty.

    Raises:
        UserError: it cannot be written; found out before any image is searched.
    """
    names = (FOLDER if number == 1 else f"{FOLDER}-{number}" for number in count(1))
    folder = Path(given) if given else next(Path(name) for name in names if not _in_use(Path(name)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = unguessable(folder / "probe", ".tmp")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror}; give another one with --out") from None
    return folder


def _in_use(folder: Path) -> bool:
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
