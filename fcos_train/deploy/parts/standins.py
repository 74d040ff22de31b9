"""Other ways to the detections of a batch: the checkpoint itself, graphs with CANN's operators, unfinished graphs.

All give `dets` f32 [B, T, 5] (x1 y1 x2 y2 score, input pixels, filled up with zeros) and `labels` i64 [B, T].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.deploy.decoder.decoder import Decoder, DecodeRule
from fcos_train.deploy.parts.session import OnnxSession, Session
from mmcv_overrides.errors import UserError

Pair = tuple[np.ndarray, np.ndarray]  # rows [N, 5], labels [N]


def _filled(found: list[Pair], total: int) -> list[np.ndarray]:
    dets = np.zeros((len(found), total, 5), np.float32)
    labels = np.zeros((len(found), total), np.int64)
    for image, (rows, names) in enumerate(found):
        dets[image, : len(rows)], labels[image, : len(rows)] = rows[:total], names[:total]
    return [dets, labels]


class TorchSession(Session):
    """A checkpoint in PyTorch, fed with the prepared inputs of its export.

    Args:
        detector: the loaded :class:`fcos_train.infer.detector.Detector`.
        description: of the export: input size, normalisation, number of detections.
    """

    outputs = ["dets", "labels"]

    def __init__(self, checkpoint: str | Path, detector, description: dict[str, Any]) -> None:
        self.path, self.batch = Path(checkpoint), 1
        self.height, self.width = description["input"]["example_shape"]
        self._detector, self._total = detector, int(description["test_cfg"]["max_per_img"])
        self._pixels = bool(description["input"].get("normalize_in_graph"))
        self._flip = bool(description["bgr_to_rgb"])
        self._mean, self._std = (np.float32(description[key]).reshape(3, 1, 1) for key in ("mean", "std"))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        import torch
        from mmdet.structures import DetDataSample

        if self._pixels:
            images = ((images[:, ::-1] if self._flip else images) - self._mean) / self._std
        size = tuple(images.shape[2:])
        names = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
        meta = {**dict.fromkeys(names, size), "scale_factor": (1.0, 1.0)}
        samples = [DetDataSample(metainfo=meta) for _ in images]
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self._detector.device)
        with torch.inference_mode():
            found = [s.pred_instances for s in self._detector.model.predict(batch, samples, rescale=False)]
        pairs = [(torch.cat([f.bboxes, f.scores[:, None]], 1).cpu().numpy(), f.labels.cpu().numpy()) for f in found]
        return _filled(pairs, self._total)


class ReferenceSession(Session):
    """A graph with CANN's operators in onnx's reference evaluator, as the exporter verifies it: exact and slow."""

    def __init__(self, path: str | Path, description: dict[str, Any]) -> None:
        import onnx

        from fcos_train.deploy.onnx.verify import runner

        self.path, self.batch = Path(path), int(description["input"]["shape"][0])
        self.height, self.width = description["input"]["example_shape"]
        model = onnx.load(str(path))
        self.outputs = [output.name for output in model.graph.output]
        self._compute, _ = runner(model)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        return self._compute(images)


class FinishedSession(Session):
    """A graph that ends before the suppression (`raw` or `decoded`), finished in numpy."""

    outputs = ["dets", "labels"]

    def __init__(self, session: OnnxSession, description: dict[str, Any]) -> None:
        self.path, self.batch = session.path, session.batch
        self.height, self.width = session.height, session.width
        self._session, self._rules = session, description["test_cfg"]
        self._finish = self._decoded if description["end"] == "decoded" else self._raw
        if description["end"] == "raw":
            self._places = _places(description, session.outputs)
            self._decoder = Decoder(decode_rule(description))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        outputs = self._session.run(images)
        found = [self._finish([output[i] for output in outputs]) for i in range(self.batch)]
        return _filled(found, int(self._rules["max_per_img"]))

    def _raw(self, maps: list[np.ndarray]) -> Pair:
        parts = {part: [maps[i] for i in indices] for part, indices in self._places.items()}
        size = (self.height, self.width)
        boxes, scores, labels = self._decoder(parts["cls"], parts["box"], parts.get("ctr"), size)
        return np.column_stack([boxes, scores]), labels

    def _decoded(self, outputs: list[np.ndarray]) -> Pair:
        from fcos_train.deploy.onnx.ascend_ops import suppress

        boxes, scores = outputs
        rows, labels = [np.zeros((0, 5), np.float32)], [np.zeros(0, np.int64)]
        for label in np.flatnonzero(scores.max(0) > 0):
            candidates = np.flatnonzero(scores[:, label] > 0)
            own, score = boxes[candidates], scores[candidates, label]
            most = int(self._rules["max_per_img"])
            kept = suppress(own, score, 0.0, float(self._rules["iou_threshold"]), most)
            rows.append(np.column_stack([own[kept], score[kept]]))
            labels.append(np.full(len(kept), label, np.int64))
        rows, labels = np.concatenate(rows), np.concatenate(labels)
        order = np.argsort(-rows[:, 4], kind="stable")[: int(self._rules["max_per_img"])]
        return rows[order], labels[order]


def _places(description: dict[str, Any], outputs: list[str]) -> dict[str, list[int]]:
    """Part (cls, box, ctr) -> indices of its maps among the outputs, by level."""
    places: dict[str, list[int]] = {}
    for entry in sorted(description["outputs"], key=lambda entry: entry["level"]):
        places.setdefault(entry["part"], []).append(outputs.index(entry["name"]))
    return places


def decode_rule(description: dict[str, Any]) -> DecodeRule:
    """The decoder's rule for the raw maps of an export.

    Raises:
        UserError: class scores other than sigmoid, which the decoder does not do.
    """
    decode, rules = description["decode"], description["test_cfg"]
    if decode.get("score", "sigmoid") != "sigmoid":
        raise UserError("raw maps with softmax scores cannot be decoded here; export with --end nms or decoded")
    keys = {
        key: decode[key] for key in ("kind", "offset", "means", "stds", "normalizer", "wh_ratio_clip") if key in decode
    }
    for key in ("means", "stds", "normalizer"):
        if isinstance(keys.get(key), list):
            keys[key] = tuple(keys[key])
    strides = (stride[0] if isinstance(stride, list) else stride for stride in decode["strides"])
    return DecodeRule(
        strides=tuple(int(stride) for stride in strides),
        anchors=tuple(np.asarray(level, np.float32) for level in decode.get("anchors", ())),
        score_thr=rules["score_thr"],
        nms_pre=rules["nms_pre"],
        iou_thr=rules["iou_threshold"],
        class_agnostic=rules["class_agnostic"],
        min_size=rules["min_bbox_size"],
        max_per_img=rules["max_per_img"],
        **keys,
    )
