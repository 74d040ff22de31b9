"""One model for many clients: a single thread answers one request after another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, cast

import cv2
import numpy as np

from fcos_train.infer.base import BaseDetector
from fcos_train.serve.answer import Answer
from fcos_train.serve.limits import Limits, Refused
from mmcv_overrides.printable import printable

MOST_WAITING = 16
WARM_UP = np.zeros((96, 128, 3), np.uint8)
PREVIEW = 1280  # px, longer side of the picture that the page draws on
T = TypeVar("T")


class Service:
    """A detector and the one thread that loads it, decodes images and calls it.

    One thread, because a device may be chosen for a thread (NPU), because each thread that calls torch keeps threads of
    its own, and because images that are decoded side by side add up in memory.

    Args:
        name: of the model, for people.
        load: makes the detector. limits: of the images.

    Attributes:
        classes: names by label. device: where the model runs, for people. notices: lines for the user.
        answered: number of images since the start.

    Raises:
        UserError: from ``load``.
    """

    def __init__(self, name: str, load: Callable[[], BaseDetector], limits: Limits) -> None:
        self.name, self.limits = printable(name), limits
        self.answered = 0
        self.closed = False
        self._waiting, self._count = 0, threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._detector: BaseDetector = self._do(load)
        self._do(self._detector, WARM_UP)  # the first call takes longer, and says what is wrong with the model
        self.classes: Sequence[str] = tuple(self._detector.classes)
        self.device = printable(self._detector.device_reason)
        self.notices = [printable(line) for line in self._detector.notices]

    def _do(self, work: Callable[..., T], *arguments: object) -> T:
        return cast(T, self._thread.submit(work, *arguments).result())

    @property
    def waiting(self) -> int:
        """Number of requests in progress."""
        return self._waiting

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue for the time of a request.

        Raises:
            Refused: there are too many requests.
        """
        with self._count:
            if self._waiting >= MOST_WAITING:
                raise Refused(503, f"The server is busy: {MOST_WAITING} requests wait already; send it again later.")
            self._waiting += 1
        try:
            yield
        finally:
            with self._count:
                self._waiting -= 1

    def answer(self, data: bytes, preview: bool = False) -> Answer:
        """Detect objects in an image file.

        Args:
            preview: keep the image for drawing.

        Raises:
            Refused: the file is refused (see :meth:`Limits.image`).
        """
        return self._do(self._answer, data, preview)

    def answer_frame(self, image: np.ndarray) -> Answer:
        """Detect objects in one frame u8 [H, W, 3] BGR of a video."""
        return self._do(self._detect, image)

    def _answer(self, data: bytes, preview: bool) -> Answer:
        image = self.limits.image(data)
        answer = self._detect(image)
        return Answer(**{**vars(answer), "preview": reduced(image)}) if preview else answer

    def _detect(self, image: np.ndarray) -> Answer:
        start = time.perf_counter()
        found = self._detector(image)
        seconds = time.perf_counter() - start
        self.answered += 1
        return Answer(image.shape[1], image.shape[0], found, seconds)

    def close(self) -> None:
        """End the thread after the image that it works on; requests that wait are given up."""
        self.closed = True
        self._thread.shutdown(wait=True, cancel_futures=True)


def reduced(image: np.ndarray) -> np.ndarray:
    """An image u8 [H, W, 3] with a longer side of at most :data:`PREVIEW` px."""
    factor = PREVIEW / max(image.shape[:2])
    if factor >= 1:
        return image
    size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
