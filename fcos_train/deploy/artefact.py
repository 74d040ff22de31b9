"""Opens an exported model of any target, and calls it like a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from fcos_train.deploy.onnx.opening import open_onnx
from fcos_train.deploy.parts.description import beside, read_description, read_rule
from fcos_train.deploy.parts.input_rule import InputRule
from fcos_train.deploy.parts.reference_sessions import finished
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.targets import named_by, require_artefact, target_of
from fcos_train.infer.base import BaseDetector
from fcos_train.infer.demo import demo, load_checkpoint
from fcos_train.infer.detections import Detections
from fcos_train.infer.options import DemoOptions, PredictOptions
from mmcv_overrides.errors import UserError


def open_artefact(path: Path, description: dict[str, Any]) -> Session:
    """A session that returns the outputs of the model as its description lists them.

    Raises:
        UserError: no such file, one that its runtime cannot load, or a runtime that is not installed.
    """
    name = require_artefact(path)
    if name == "onnx":
        return open_onnx(path, description)
    target = target_of(name)
    target.require()
    return target.open(path, description)


def detect(session: Session, rule: InputRule, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections in one image u8 [H, W, 3] BGR.

    Args:
        session: that returns detections, of one image at a time. rule: of its input.

    Returns:
        boxes f64 [N, 4] in pixels of the image, scores [N], labels [N].
    """
    dets, labels = (output[0] for output in session.run(rule.prepare(image)[None]))
    used = dets[:, 4] > 0
    return rule.restore(dets[used, :4], image.shape[1], image.shape[0]), dets[used, 4], labels[used]


class ExportedDetector(BaseDetector):
    """An exported model that is called like :class:`fcos_train.infer.detector.Detector`.

    Args:
        path: its main file. description: the JSON file of the export; None: the one beside it.

    Attributes:
        classes: names by label. notices, device_reason: lines for the user.

    Raises:
        UserError: no such file, no description, or a runtime that is not installed.
    """

    def __init__(self, path: str | Path, description: str | Path | None = None) -> None:
        self.path = Path(path)
        target = require_artefact(self.path)
        place = Path(description) if description else beside(self.path)
        content = read_description(place)
        self.rule, self.classes = read_rule(place), tuple(content["classes"])
        self.session = finished(open_artefact(self.path, content), content)
        if self.session.batch != 1:
            raise UserError(f"{path} takes {self.session.batch} images at a time; export it with --batch 1")
        self.config = Config()
        self.notices: list[str] = []
        self.device_reason = f"{self.path.name}: {target}, on the CPU"

    def detect(self, images: Iterable[np.ndarray], batch_size: int = 1) -> list[Detections]:
        """Detect objects in images u8 [H, W, 3] BGR, one by one.

        Raises:
            UserError: a larger batch; the shapes of an export are fixed.
        """
        if batch_size > 1:
            raise UserError(f"a batch of {batch_size} images: {self.path} takes one image at a time")
        return [self._detect(image) for image in images]

    def _detect(self, image: np.ndarray) -> Detections:
        boxes, scores, labels = detect(self.session, self.rule, image)
        return Detections(boxes.astype(np.float32), scores, labels.astype(np.int64), self.classes)


def load_model(options: DemoOptions | PredictOptions) -> BaseDetector:
    """The detector of a checkpoint, or of an exported model of any target.

    Raises:
        UserError: of an exported model, options that only a checkpoint has.
    """
    if named_by(options.checkpoint) is None:
        return load_checkpoint(options)
    given = {"--config": options.config, "--trust-checkpoint": options.trust_checkpoint}
    given |= {"--safe-config": options.safe_config, f"--device {options.device}": options.device not in ("auto", "cpu")}
    foreign = [flag for flag, value in given.items() if value]
    if foreign:
        raise UserError(f"{foreign[0]} applies to checkpoints; {options.checkpoint} is an exported model, on the CPU")
    return ExportedDetector(options.checkpoint)


def demo_exported(options: DemoOptions) -> list[Path]:
    """:func:`fcos_train.infer.demo.demo` of an exported model."""
    return demo(options, load=load_model)
