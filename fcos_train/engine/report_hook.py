"""Writes the report of a run after each evaluation, and what it needs at the start. Never ends a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmengine.dist as dist
import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.hooks import Hook
from mmengine.runner import Runner

from fcos_train.engine.run_facts import Origin, facts_of
from fcos_train.geometry.padded import PaddedObjects
from fcos_train.report.facts import FACTS, FOLDER
from mmcv_overrides.files import write_json
from mmcv_overrides.printable import printable

BATCHES = 2  # of the training that are drawn
SHOWN = 16  # most images of a batch that are drawn
COLUMNS, LONGER = 4, 260  # of the picture of a batch; px of an image in it
CURVED = 2  # validation images for TensorBoard at each evaluation
LEAST_SCORE = 0.3

Shown = tuple[np.ndarray, np.ndarray, list[int]]  # image u8 [H, W, 3] BGR, boxes [n, 4] xyxy in px, labels


class ReportHook(Hook):
    """``<work dir>/report/``: facts and training batches at the start, the page after every evaluation.

    The worst images are drawn once, when the training or an evaluation of its own ends. Whatever fails here is one
    warning in the log. Only rank 0 does anything.

    Args:
        origin: of the config.
    """

    priority = "VERY_LOW"  # the log has the numbers by then

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._samples: list[Any] = []
        self._evaluated = False

    def before_train(self, runner: Runner) -> None:
        """Write what is known of the run."""
        _attempt(runner, "facts of the report", lambda: self._write_facts(runner))

    def before_test(self, runner: Runner) -> None:
        """Write what is known of the evaluation."""
        _attempt(runner, "facts of the report", lambda: self._write_facts(runner))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Draw the first batches of a training, not those after a resume."""
        if runner.iter < BATCHES:
            path = _folder(runner) / f"train_batch_{runner.iter + 1}.jpg"
            classes = (runner.train_dataloader.dataset.metainfo or {}).get("classes", ())
            _attempt(runner, "picture of a training batch", lambda: _draw_batch(data_batch, classes, path))

    def before_val_epoch(self, runner: Runner) -> None:
        """Forget the images of the evaluation before."""
        self._samples = []

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Keep the first images with their detections."""
        if dist.is_main_process() and len(self._samples) < CURVED:
            self._samples += list(outputs or ())[: CURVED - len(self._samples)]

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Pictures for TensorBoard, and the page; at the end of the training :meth:`after_train` writes it."""
        self._evaluated = True
        _attempt(runner, "validation pictures", lambda: _add_pictures(runner, self._samples))
        self._samples = []
        if runner.iter < runner.max_iters and runner.epoch < runner.max_epochs:
            _attempt(runner, "report", lambda: _build(runner, with_images=False))

    def after_train(self, runner: Runner) -> None:
        """The page with the worst images."""
        if self._evaluated:
            _attempt(runner, "report", lambda: _build(runner, with_images=True))

    def write(self, runner: Runner) -> None:
        """The page of an evaluation of its own, once its time has been taken."""
        _attempt(runner, "report", lambda: _build(runner, with_images=True))

    def _write_facts(self, runner: Runner) -> None:
        write_json(_folder(runner) / FACTS, facts_of(self.origin, runner.cfg, runner.seed))


def _folder(runner: Runner) -> Path:
    return Path(runner.work_dir) / FOLDER


def _attempt(runner: Runner, what: str, work: Callable[[], object]) -> None:
    """Do it on rank 0; a failure is one line of the log: a full disk must not end a training of days."""
    if not dist.is_main_process():
        return
    try:
        work()
    except Exception as error:
        runner.logger.warning(f"no {what}: {type(error).__name__}: {printable(error)}")


def _build(runner: Runner, with_images: bool) -> None:
    from fcos_train.report.page import build  # matplotlib, only where a report is written

    path = build(runner.work_dir, with_images)
    runner.logger.info(f"report: {path}")


def _draw_batch(data_batch: Any, classes: Sequence[str], path: Path) -> None:
    from fcos_train.report.figures import PALETTE
    from fcos_train.report.pictures import draw, grid, of_classes, write

    panels = []
    for image, boxes, labels in _batch(data_batch)[:SHOWN]:
        panels.append(draw(image, of_classes(boxes, labels, classes, PALETTE), LONGER))
    path.parent.mkdir(exist_ok=True)
    write(path, grid(panels, min(COLUMNS, len(panels))))


def _batch(data_batch: Any) -> list[Shown]:
    """The images of a batch with their boxes, from fixed-shape tensors or from mmdet's samples."""
    inputs, samples = data_batch["inputs"], data_batch["data_samples"]
    images = [_bgr(image) for image in inputs]
    if isinstance(samples, PaddedObjects):
        rows = zip(samples.boxes, samples.labels, samples.count.tolist(), strict=True)
        truth = [(boxes[:count].numpy(), labels[:count].tolist()) for boxes, labels, count in rows]
    else:
        instances = [sample.gt_instances for sample in samples]
        truth = [(get_box_tensor(one.bboxes).numpy(), one.labels.tolist()) for one in instances]
    return [(image, boxes, labels) for image, (boxes, labels) in zip(images, truth, strict=True)]


def _bgr(image: torch.Tensor) -> np.ndarray:
    """[3, H, W] of any type -> u8 [H, W, 3]."""
    return np.ascontiguousarray(image.clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


def _add_pictures(runner: Runner, samples: Sequence[Any]) -> None:
    """Ground truth beside detections, for every backend of the visualizer that takes pictures."""
    from fcos_train.report.figures import PALETTE
    from fcos_train.report.pictures import beside, draw, of_classes, read

    dataset = runner.val_dataloader.dataset
    classes = dataset.metainfo.get("classes", ())
    world = dist.get_world_size()
    for number, sample in enumerate(samples):
        image = read(Path(sample.img_path))
        found = sample.pred_instances
        kept = found.scores >= LEAST_SCORE
        boxes, labels = (getattr(found, key)[kept].detach().cpu().numpy() for key in ("bboxes", "labels"))
        panels = [draw(image, of_classes(boxes, labels.astype(int).tolist(), classes, PALETTE))]
        info = dataset.get_data_info(number * world)  # the sampler deals images out to the ranks in turn
        if info.get("img_id") == sample.img_id:
            truth = [(one["bbox"], one["bbox_label"]) for one in info["instances"] if not one.get("ignore_flag")]
            corners = np.array([box for box, _ in truth], float).reshape(-1, 4)
            panels.insert(0, draw(image, of_classes(corners, [label for _, label in truth], classes, PALETTE)))
        picture = cv2.cvtColor(beside(panels), cv2.COLOR_BGR2RGB)
        runner.visualizer.add_image(f"val/picture_{number + 1}", picture, step=runner.iter)
