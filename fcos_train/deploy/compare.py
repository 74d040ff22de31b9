"""A checkpoint beside its exports: size, largest difference of the maps, mAP and time per image, in one table."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fcos_train.data.images import read_image
from fcos_train.deploy.artefact import detect, open_artefact
from fcos_train.deploy.onnx.export import verification_images
from fcos_train.deploy.onnx.graphs import build_graph
from fcos_train.deploy.onnx.spec import GraphSpec
from fcos_train.deploy.onnx.verify import answer
from fcos_train.deploy.options import CompareOptions
from fcos_train.deploy.parts.accuracy import tolerance_of
from fcos_train.deploy.parts.blobs import Limits, compare_maps
from fcos_train.deploy.parts.classes import read_truth
from fcos_train.deploy.parts.coco_numbers import evaluate
from fcos_train.deploy.parts.description import beside, ends_in_maps, read_description, read_rule
from fcos_train.deploy.parts.files import some, stem
from fcos_train.deploy.parts.input_rule import InputRule
from fcos_train.deploy.parts.reference_sessions import TorchSession, finished
from fcos_train.deploy.parts.session import Session
from fcos_train.deploy.parts.validation import validation_set
from fcos_train.deploy.targets import require_artefact, target_of
from fcos_train.infer.detector import Detector
from fcos_train.progress import track
from mmcv_overrides.errors import UserError

CHECKED = 4  # images whose maps are compared
WARM_UP = 2  # rounds that are not counted


@dataclass
class Row:
    """One model of the table; numbers that were not measured are None.

    Attributes:
        name: of the model: file name and precision.
        megabytes: size of its files.
        differences: part -> largest difference from PyTorch's maps, of boxes in strides where they are distances.
        own, torchs: mAP of the model, and of the checkpoint on the same inputs.
        tolerance: largest accepted difference of the two.
        wall, cpu: times of one image in the network, ms, one value per round.
    """

    name: str
    megabytes: float
    differences: dict[str, float] = field(default_factory=dict)
    own: float | None = None
    torchs: float | None = None
    tolerance: float = 0.0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether the mAP is within the tolerance, compared as printed: to four decimals."""
        if self.own is None or self.torchs is None:
            return True
        return round(abs(self.own - self.torchs), 4) <= self.tolerance


class _Model:
    """An export that is compared: its file, description and input rule."""

    def __init__(self, path: str, classes: Sequence[str]) -> None:
        self.path = Path(path)
        self.target = require_artefact(self.path)
        place = beside(self.path)
        self.description, self.rule = read_description(place), read_rule(place)
        if list(classes) != list(self.description["classes"]):
            raise UserError(
                f"{path} has other classes than the checkpoint: {some(self.description['classes'], 3)}; "
                f"the checkpoint's are {some(classes, 3)}"
            )
        files = [self.path] if self.target == "onnx" else target_of(self.target).files(self.path)
        size = sum(file.stat().st_size for file in files if file.is_file())
        self.row = Row(f"{self.path.name} ({self.description.get('precision', 'fp32')})", size / 1e6)


def compare(options: CompareOptions, say: Callable[[str], None] = print) -> list[Row]:
    """Measure the checkpoint and every export; the first row is the checkpoint.

    Args:
        say: prints a line.

    Raises:
        UserError: a model that cannot be opened or is of other classes, or a fault in the checkpoint or the data.
    """
    detector = Detector.from_checkpoint(
        options.checkpoint, options.config, "cpu", options.trust_checkpoint, safe=options.safe_config
    )
    models = [_Model(path, detector.classes) for path in options.models]
    sessions = [open_artefact(model.path, model.description) for model in models]
    own = Row(f"{Path(options.checkpoint).name} (PyTorch)", Path(options.checkpoint).stat().st_size / 1e6)
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        if options.data_path is not None:
            files, truth = validation_set(
                options.data_path, detector.classes, Path(scratch), options.limit, options.allow_outside, say
            )
            images = [read_image(file) for file in files[:CHECKED]]
            _accuracies(models, sessions, own, detector, files, truth, options, say)
        else:
            images, _ = verification_images(detector, None)
    for model, session in zip(models, sessions, strict=True):
        if ends_in_maps(model.description):
            model.row.differences = _differences(model, session, detector, images)
    if options.rounds:
        _times(models, sessions, own, detector, images, options.rounds)
    return [own, *(model.row for model in models)]


def _graph(model: _Model, detector: Detector) -> Any:
    size = (model.rule.height, model.rule.width)
    inside = bool(model.description["input"].get("normalize_in_graph"))
    return build_graph(detector.model, GraphSpec(model.description["end"], size, normalize=inside))


def _differences(model: _Model, session: Session, detector: Detector, images: Sequence[np.ndarray]) -> dict[str, float]:
    """Part -> largest difference of its maps from PyTorch's."""
    graph = _graph(model, detector)
    inputs = [model.rule.prepare(image)[None] for image in images]
    theirs = [answer(graph, image) for image in inputs]
    found: dict[str, float] = {}
    for blob in compare_maps(model.description, [session.run(image) for image in inputs], theirs, Limits()):
        found[blob.part] = max(found.get(blob.part, 0.0), blob.largest)
    return found


def _accuracies(
    models: Sequence[_Model],
    sessions: Sequence[Session],
    own: Row,
    detector: Detector,
    files: Sequence[Path],
    truth: Path,
    options: CompareOptions,
    say: Callable[[str], None],
) -> None:
    """Fill in the mAPs. The checkpoint is evaluated once for all models that take the same input."""
    known: dict[InputRule, float] = {}
    for model, opened in zip(models, sessions, strict=True):
        row, rule = model.row, model.rule
        row.own = _map(finished(opened, model.description), rule, files, truth, detector.classes)
        key = InputRule(**{**vars(rule), "name": ""})
        if key not in known:
            session = TorchSession(options.checkpoint, detector, model.description)
            known[key] = _map(session, rule, files, truth, detector.classes)
        row.torchs = known[key]
        row.tolerance = tolerance_of(model.description) if options.tolerance is None else options.tolerance
        own.own = known[key] if own.own is None else own.own
        say(f"{row.name}: mAP {row.own:.4f}, PyTorch's {row.torchs:.4f} on the same {len(files)} images")


def _map(session: Session, rule: InputRule, files: Sequence[Path], truth: Path, classes: Sequence[str]) -> float:
    """mAP of a session that returns detections."""
    ids, results = read_truth(truth), []
    for file in track(files, f"detecting with {session.path.name}"):
        found = (values.tolist() for values in detect(session, rule, read_image(file)))
        for (x1, y1, x2, y2), score, label in zip(*found, strict=True):
            results.append(
                {
                    "image_id": ids.image_id(stem(str(file))),
                    "category_id": ids.category_id(classes[label]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
            )
    return evaluate(truth, results).stats[0]


@torch.no_grad()
def _times(
    models: Sequence[_Model],
    sessions: Sequence[Session],
    own: Row,
    detector: Detector,
    images: Sequence[np.ndarray],
    rounds: int,
) -> None:
    """Time the networks alone, one image each in turn, so that load of the machine meets all alike."""
    inputs = [model.rule.prepare(images[0])[None] for model in models]
    graph, first = _graph(models[0], detector), torch.from_numpy(inputs[0])
    calls: list[tuple[Row, Callable[[], Any]]] = [(own, lambda: graph(first))]
    for model, session, image in zip(models, sessions, inputs, strict=True):
        calls.append((model.row, lambda session=session, image=image: session.run(image)))  # type: ignore[misc]
    for number in range(WARM_UP + rounds):
        for row, call in calls:
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if number >= WARM_UP:
                row.wall.append(1000 * (time.perf_counter() - wall))
                row.cpu.append(1000 * (time.process_time() - cpu))


def table(rows: Sequence[Row]) -> list[str]:
    """The rows of a Markdown table."""
    head = ["model", "MB", "cls", "box, strides", "ctr", "mAP", "PyTorch's", "ms per image", "CPU ms"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        parts = [f"{row.differences[part]:.1e}" if part in row.differences else "-" for part in ("cls", "box", "ctr")]
        mark = "" if row.agrees else f" ABOVE {row.tolerance:g}"
        scores = ["-" if value is None else f"{value:.4f}" for value in (row.own, row.torchs)]
        times = [f"{statistics.median(values):.1f}" if values else "-" for values in (row.wall, row.cpu)]
        lines.append(_line([row.name, f"{row.megabytes:.1f}", *parts, scores[0], scores[1] + mark, *times]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
