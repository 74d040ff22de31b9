"""Builds the training step of a config and counts a few steps on generated images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mmcv_overrides.auto  # noqa: F401  # isort: skip  the overrides come before mmdet
import torch
from mmdet.models import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.registry import FUNCTIONS, init_default_scope
from mmengine.structures import InstanceData

from fcos_train.audit.options import AuditOptions
from fcos_train.audit.trace import StepTrace
from fcos_train.config.load import configured, fill, walk
from fcos_train.config.options import TrainOptions
from fcos_train.config.prepare import set_precision, set_visualizer
from fcos_train.config.pretrained import settle_pretrained
from fcos_train.config.schedule import safe_schedule
from fcos_train.config.step_mode import set_step
from fcos_train.engine import compiled
from fcos_train.engine.runner import build_runner
from fcos_train.models.fast.apply import cpu_paths_off
from fcos_train.start import start
from mmcv_overrides import device
from mmcv_overrides.errors import UserError

DEFAULT_SHAPE = (800, 1344)
# Objects per image, all within one padded length; the count must not affect the launches.
OBJECTS = (7, 3, 8, 1, 5, 0)


@dataclass
class Trained:
    """A model with everything that a step needs."""

    model: BaseDetector
    wrapper: Any
    collate: Any
    shape: tuple[int, int]
    classes: int
    accelerator: device.Accelerator
    notes: list[str]


def build(options: AuditOptions) -> Trained:
    """The config's model and optimizer as the trainer would have them, on random weights.

    Raises:
        UserError: the config, the device, or a model that needs more than boxes.
    """
    train = TrainOptions(
        config=options.config,
        device=options.device,
        opt_level=options.opt_level,
        loss_scale=options.loss_scale,
        step_mode=options.step_mode,
        safe_config=options.safe_config,
        cfg_options=options.cfg_options,
    )
    return build_step(train, options.shape)


def build_step(options: TrainOptions, shape: tuple[int, int] | None = None) -> Trained:
    """The step of a training with these options, on random weights.

    Args:
        shape: height and width of the images in px; None: the config's.

    Raises:
        UserError: as :func:`build`.
    """
    accelerator, reason = device.pick(options.device)
    device.use(accelerator)
    accelerator.set_device(0)
    start()
    init_default_scope("mmdet")
    cfg, special, notes = configured(options.config, options.cfg_options, options.safe_config)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    if "mask_head" in str(cfg.model.get("roi_head", "")):
        raise UserError("the audit generates boxes, not masks: it covers detectors without a mask head")
    level = set_precision(cfg, fill(options, special), accelerator)
    notes = [reason, *notes, *set_step(cfg, options, accelerator), level]
    safe_schedule(cfg, None)
    settle_pretrained(cfg, "none")
    model, wrapper = _model_and_wrapper(cfg)
    collate, shape = _collate(cfg, shape)
    classes = min((part.num_classes for part in walk(cfg.model) if "num_classes" in part), default=1)
    return Trained(model, wrapper, collate, shape, classes, accelerator, notes)


def _model_and_wrapper(cfg: Config) -> tuple[BaseDetector, OptimWrapper]:
    """Model and optimizer wrapper of the trainer's own runner, ready for a first step; nothing stays on disk."""
    with tempfile.TemporaryDirectory() as folder:
        cfg["work_dir"], cfg["log_level"] = folder, "WARNING"  # no line for each parameter
        set_visualizer(cfg, Path(folder), curves=False)
        cfg.visualizer["vis_backends"] = []
        runner = build_runner(cfg, "audit")
        wrapper = runner.build_step()
        for handler in [one for one in runner.logger.handlers if isinstance(one, logging.FileHandler)]:
            handler.close()
            runner.logger.removeHandler(handler)  # mmengine writes into each file handler of the current logger
    runner.model.train()  # returns None where a model overrides it without `return self`
    return runner.model, wrapper


def _collate(cfg: Config, shape: tuple[int, int] | None) -> tuple[Callable[[list[dict]], dict], tuple[int, int]]:
    """The loader's collate function for images of one shape, and that shape."""
    given = dict((cfg.get("train_dataloader") or {}).get("collate_fn") or {})
    function = FUNCTIONS.get(given.pop("type", "pseudo_collate")) or pseudo_collate
    shapes = given.get("shapes")
    shape = shape or (tuple(shapes[0]) if shapes else DEFAULT_SHAPE)
    if shapes is not None:
        given["shapes"] = [shape]
    return partial(function, **given), shape


def made_up_batch(trained: Trained, batch_size: int, step: int) -> dict:
    """What the loader would give: random pixels and boxes, another number of objects in every step."""
    generator = torch.Generator().manual_seed(step)
    height, width = trained.shape
    items = []
    for index in range(batch_size):
        count = OBJECTS[(step + index) % len(OBJECTS)]
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.6
        side = (0.05 + 0.35 * torch.rand(count, 2, generator=generator)) * torch.tensor([width, height])
        sample = DetDataSample(
            metainfo={
                "img_id": step * batch_size + index,
                "img_path": "",
                "img_shape": trained.shape,
                "ori_shape": trained.shape,
                "scale_factor": (1.0, 1.0),
                "flip": False,
                "flip_direction": None,
            }
        )
        labels = torch.randint(0, trained.classes, (count,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=torch.cat((corner, corner + side), 1), labels=labels)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        items.append({"inputs": image, "data_samples": sample})
    return trained.collate(items)


def trace_steps(trained: Trained, options: AuditOptions) -> list[StepTrace]:
    """The counts of each of ``options.steps`` training steps."""
    traces = []
    for step in range(options.steps):
        batch = made_up_batch(trained, options.batch_size, step)
        with cpu_paths_off(), StepTrace() as trace:
            trained.model.train_step(batch, trained.wrapper)
        traces.append(trace)
    return traces


def graph_breaks(trained: Trained, options: AuditOptions) -> tuple[int | None, list[str]]:
    """How often torch.compile leaves the graph of forward pass and losses (``--step-mode compile``), and why.

    Returns:
        None and the reason where dynamo cannot tell.
    """
    batch = trained.model.data_preprocessor(made_up_batch(trained, options.batch_size, 0), True)
    torch._dynamo.reset()
    try:
        with trained.wrapper.optim_context(trained.model):
            found = torch._dynamo.explain(compiled.losses)(trained.model, batch["inputs"], batch["data_samples"])
    except Exception as error:  # dynamo raises many kinds
        return None, [f"{type(error).__name__}: {str(error).splitlines()[0]}"]
    finally:
        torch._dynamo.reset()
    return found.graph_break_count, [str(reason.reason).splitlines()[0] for reason in found.break_reasons]
