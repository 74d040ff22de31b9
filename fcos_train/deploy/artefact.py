"""Opens an exported model of any target, and calls it like a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from mmengine.config import Config

from fcos_train.deploy.parts.description import beside, needs_finish, read_description, read_rule
from fcos_train.deploy.parts.reference_sessions import FinishedSession
from fcos_train.deploy.parts.session import OnnxSession, Session
from fcos_train.deploy.targets import require_artefact, target_of
from fcos_train.infer.demo import demo
from fcos_train.infer.detector import Detections, Detector
from fcos_train.infer.options import DemoOptions
from mmcv_overrides.errors import UserError


def open_maps(path: Path, description: Mapping[str, Any]) -> Session:
    """A session that returns the outputs of the model as its description lists them.

    Raises:
        UserError: no such file, one that its runtime cannot load, or a runtime that is not installed.
    """
    name = require_artefact(path)
    if name == "onnx":
        return OnnxSession(path, None, *description["input"]["example_shape"])
    target = target_of(name)
    target.require()
    return target.open(path, description)


def open_model(path: Path, description: dict[str, Any]) -> Session:
    """A session that returns detections: dets [B, T, 5] and labels [B, T], whatever the end of the model."""
    if description.get("custom_operators"):
        from fcos_train.deploy.onnx.evaluator import ReferenceSession

        return ReferenceSession(path, description)
    session = open_maps(path, description)
    return FinishedSession(session, description) if needs_finish(description) else session


class ExportedDetector:
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
        require_artefact(self.path)
        place = Path(description) if description else beside(self.path)
        content = read_description(place)
        self.rule, self.classes = read_rule(place), tuple(content["classes"])
        self.session = open_model(self.path, content)
        if self.session.batch != 1:
            raise UserError(f"{path} takes {self.session.batch} images at a time; export it with --batch 1")
        self.config = Config()
        self.notices: list[str] = []
        self.device_reason = f"{self.path.name}: {require_artefact(self.path)}, on the CPU"

    def __call__(self, image: np.ndarray) -> Detections:
        """Detect objects in one image u8 [H, W, 3] BGR."""
        dets, labels = self.session.run(self.rule.prepare(image)[None])
        found = dets[0][:, 4] > 0
        boxes = self.rule.restore(dets[0][found, :4], image.shape[1], image.shape[0])
        return Detections(boxes.astype(np.float32), dets[0][found, 4], labels[0][found].astype(np.int64))

    def name(self, label: int) -> str:
        """Name of a class."""
        return self.classes[label] if label < len(self.classes) else f"class {label}"


def demo_exported(options: DemoOptions) -> list[Path]:
    """:func:`fcos_train.infer.demo.demo` of an exported model.

    Raises:
        UserError: options that only a checkpoint has, beside those of the demo.
    """
    given = {"--config": options.config, "--trust-checkpoint": options.trust_checkpoint}
    given |= {"--safe-config": options.safe_config, f"--device {options.device}": options.device not in ("auto", "cpu")}
    foreign = [flag for flag, value in given.items() if value]
    if foreign:
        raise UserError(f"{foreign[0]} applies to checkpoints; {options.checkpoint} is an exported model, on the CPU")
    return demo(options, load=lambda options: cast(Detector, ExportedDetector(options.checkpoint)))
