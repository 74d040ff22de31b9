"""A video of a client: detected once, then drawn for any threshold as a file that browsers play."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import cv2

from fcos_train.serve.answer import Answer, chosen, document
from fcos_train.serve.limits import Clip, Refused
from fcos_train.serve.picture import draw_on
from fcos_train.serve.service import Service, reduced


class DetectedVideo:
    """A video and what was found in its frames.

    Args:
        clip: the video. service: detects.

    Attributes:
        answers: one per frame, without images.
    """

    def __init__(self, clip: Clip, service: Service) -> None:
        self.clip, self.service = clip, service
        self.answers: list[Answer] = []
        self._drawn: Path | None = None

    def detect(self) -> Iterator[int]:
        """Run the model on each frame; yields the number of frames so far.

        Raises:
            Refused: the video is longer than the limit, or has no frame that can be decoded.
        """
        for frame in self.clip:
            if self.service.closed:
                raise Refused(503, "The server ends.")
            self.answers.append(self.service.answer_frame(frame))
            yield len(self.answers)

    def draw(self, score_thr: float, labels: Collection[int], folder: str | None = None) -> Path:
        """Write the video with the boxes of at least a score, of some classes (none given: all), in place of the last.

        VP8 in WebM: OpenCV's wheels can encode it, and browsers play it.

        Returns:
            its file.

        Raises:
            Refused: the upload has been deleted.
        """
        self.forget()
        path = self._drawn = Path(tempfile.mkstemp(suffix=".webm", prefix="detections-", dir=folder)[1])
        writer = None
        try:
            for frame, answer in zip(self.clip, self.answers):
                small = reduced(frame)
                if writer is None:
                    codec = cv2.VideoWriter.fourcc(*"VP80")
                    size = small.shape[1], small.shape[0]
                    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, self.clip.fps, size)
                writer.write(draw_on(small, answer, chosen(answer.found, score_thr, labels), self.service.classes))
        finally:
            if writer is not None:
                writer.release()  # writes the index
        return path

    def forget(self) -> None:
        """Delete the file that was drawn last."""
        if self._drawn is not None:
            self._drawn.unlink(missing_ok=True)

    def document(self, score_thr: float, labels: Collection[int], classes: Sequence[str]) -> dict:
        """The detections of all frames; the frames are named ``frame 1``, ``frame 2`` and so on."""
        named = enumerate(self.answers, start=1)
        frames = [(f"frame {n}", answer, chosen(answer.found, score_thr, labels)) for n, answer in named]
        return document(frames, classes)
