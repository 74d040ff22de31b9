"""Sessions that complete the detections of a batch: the checkpoint in PyTorch, and graphs without suppression.

Both return `dets` f32 [B, T, 5] (x1 y1 x2 y2 score, input pixels, padded with zero rows) and `labels` i64 [B, T].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcos_train.deploy.decoder import Decoder, DecoderError, decode_rule, raw_outputs
from fcos_train.deploy.parts.description import ends_in_maps, needs_finish
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.suppression import suppress
from mmcv_overrides.errors import UserError

if TYPE_CHECKING:
    from fcos_train.infer.detector import Detector

Pair = tuple[np.ndarray, np.ndarray]  # rows [N, 5], labels [N]


def _filled(found: list[Pair], total: int) -> list[np.ndarray]:
    """Detections of each image, padded with zero rows to ``total``: dets [B, total, 5], labels [B, total]."""
    dets = np.zeros((len(found), total, 5), np.float32)
    labels = np.zeros((len(found), total), np.int64)
    for image, (rows, names) in enumerate(found):
        dets[image, : len(rows)], labels[image, : len(rows)] = rows[:total], names[:total]
    return [dets, labels]


class TorchSession(Session):
    """A checkpoint in PyTorch that takes the prepared inputs of its export.

    Args:
        checkpoint: path, for messages.
        detector: the loaded checkpoint.
        description: of the export: input size, normalisation, number of detections.
    """

    outputs = ["dets", "labels"]

    def __init__(self, checkpoint: str | Path, detector: Detector, description: dict[str, Any]) -> None:
        self.path, self.batch = Path(checkpoint), 1
        self.height, self.width = description["input"]["example_shape"]
        self._detector, self._total = detector, int(description["test_cfg"]["max_per_img"])
        self._pixels = bool(description["input"].get("normalize_in_graph"))
        self._flip = bool(description["bgr_to_rgb"])
        self._mean, self._std = (np.float32(description[key]).reshape(3, 1, 1) for key in ("mean", "std"))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return dets and labels for a batch f32 [batch, 3, H, W]."""
        import torch
        from mmdet.structures import DetDataSample

        if self._pixels:
            images = ((images[:, ::-1] if self._flip else images) - self._mean) / self._std
        size = tuple(images.shape[2:])
        names = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
        meta = {**dict.fromkeys(names, size), "scale_factor": (1.0, 1.0)}
        samples = [DetDataSample(metainfo=meta) for _ in images]
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self._detector.device)
        model: Any = self._detector.model
        with torch.inference_mode():
            found = [s.pred_instances for s in model.predict(batch, samples, rescale=False)]
        pairs = [(torch.cat([f.bboxes, f.scores[:, None]], 1).cpu().numpy(), f.labels.cpu().numpy()) for f in found]
        return _filled(pairs, self._total)


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turns faults of the decoder, which knows nothing of the product, into messages for users."""
    try:
        yield
    except DecoderError as error:
        raise UserError(f"{path}: {error}") from error


class FinishedSession(Session):
    """A model that ends before the suppression (in maps or decoded boxes), completed in numpy.

    Args:
        session: runs the model, in any runtime.
        description: of the export.
    """

    outputs = ["dets", "labels"]

    def __init__(self, session: Session, description: dict[str, Any]) -> None:
        self.path, self.batch = session.path, session.batch
        self.height, self.width = session.height, session.width
        self._session, self._rules = session, description["test_cfg"]
        maps = ends_in_maps(description)
        self._finish = self._raw if maps else self._decoded
        if maps:
            with _decoding(self.path):
                self._places = raw_outputs(description, session.outputs)
                self._decoder = Decoder(decode_rule(description))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return dets and labels for a batch f32 [batch, 3, H, W]."""
        outputs = self._session.run(images)
        found = [self._finish([output[i] for output in outputs]) for i in range(self.batch)]
        return _filled(found, int(self._rules["max_per_img"]))

    def _raw(self, maps: list[np.ndarray]) -> Pair:
        parts = {part: [maps[i] for i in indices] for part, indices in self._places.items()}
        size = (self.height, self.width)
        with _decoding(self.path):
            boxes, scores, labels = self._decoder(parts["cls"], parts["box"], parts.get("ctr"), size)
        return np.column_stack([boxes, scores]), labels

    def _decoded(self, outputs: list[np.ndarray]) -> Pair:
        boxes, scores = outputs
        most = int(self._rules["max_per_img"])
        rows, labels = [np.zeros((0, 5), np.float32)], [np.zeros(0, np.int64)]
        for label in np.flatnonzero(scores.max(0) > 0):
            candidates = np.flatnonzero(scores[:, label] > 0)
            own, score = boxes[candidates], scores[candidates, label]
            kept = suppress(own, score, 0.0, float(self._rules["iou_threshold"]), most)
            rows.append(np.column_stack([own[kept], score[kept]]))
            labels.append(np.full(len(kept), label, np.int64))
        dets, names = np.concatenate(rows), np.concatenate(labels)
        order = np.argsort(-dets[:, 4], kind="stable")[:most]
        return dets[order], names[order]


def finished(session: Session, description: dict[str, Any]) -> Session:
    """A session that returns detections: itself, or :class:`FinishedSession` where the model ends before that."""
    return FinishedSession(session, description) if needs_finish(description) else session
