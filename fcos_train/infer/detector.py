"""A trained detector: loaded once from a checkpoint, then called on any number of images."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from mmengine.config import Config

from fcos_train.config import of_checkpoint
from fcos_train.config.load import test_pipeline
from fcos_train.config.needs import make_buildable
from fcos_train.config.packages import missing_packages_named, require_packages
from fcos_train.config.vetting import PACKAGES, check_parts, run_custom_imports, without_pretrained
from fcos_train.data.coco_names import COCO_NAMES
from fcos_train.infer.base import BaseDetector
from fcos_train.infer.detections import Detections
from fcos_train.start import start
from mmcv_overrides import device as devices
from mmcv_overrides.checkpoint import embedded_config
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

if TYPE_CHECKING:
    from mmcv_overrides.checkpoint import MatchReport

T = TypeVar("T")
_log = logging.getLogger(__name__)
_silent = logging.getLogger(f"{__name__}.weights")  # _require_fit reports on the weights
_silent.setLevel(logging.CRITICAL)
FROM_FILE = 2  # of the sources of class names, those in the checkpoint
# Steps of a pipeline that read files; the detector is given the image instead.
_LOADING = ("LoadImage", "LoadImageFromFile", "LoadImageFromNDArray", "LoadImageFromWebcam")


class Detector(BaseDetector):
    """A model in evaluation mode on a device, with the image preparation of its configuration.

    Args:
        model: an mmdet detector.
        pipeline: prepares the dict of an image as mmdet's test pipeline does, except loading it.
        config: the whole configuration.
        classes: class names by label.
        device: to run on.

    Attributes:
        accelerator, device_reason: record of the device, and why it was chosen.
        notices: lines for the user about ``cfg_options``.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        pipeline: Callable[[dict], Any],
        config: Config,
        classes: Sequence[str],
        device: torch.device,
    ) -> None:
        self.model: Any = model.to(device)  # mmdet has no type annotations
        self.model.eval()  # returns None where a model overrides train(), as those with a teacher do
        self.pipeline, self.config, self.classes, self.device = pipeline, config, tuple(classes), device
        self.accelerator, self.device_reason = devices.pick(device.type)
        self.notices: list[str] = []

    @classmethod
    def from_checkpoint(
        cls,
        ckpt: str | Path,
        config: str | Path | Config | None = None,
        device: str = "auto",
        trust: bool = False,
        cfg_options: dict[str, Any] | None = None,
        safe: bool = False,
    ) -> Detector:
        """Build the model of a checkpoint and load its weights.

        Args:
            ckpt: written by this trainer, mmdet 3.x or 2.x; or weights of FCOS from AdelaiDet, detectron2, torchvision.
            config: a Config, its file or name; None: the one in the checkpoint, read without executing it, else one
                that fits the names of the weights. The number of classes is that of the weights.
            device: ``auto``, ``cpu``, ``cuda``, ``npu``, or with an index: ``cuda:0``, ``npu:1``.
            trust: allow the file to run code: by unpickling, or by a configuration that is a program.
            cfg_options: changes of the configuration, dotted key -> value; keys of mmdet 2.x are translated.
            safe: read a ``config`` file as data, without executing it.

        Raises:
            UserError: an unreadable or untrusted file, no usable configuration in it, an unavailable device.
        """
        start()
        from mmcv_overrides import checkpoint as files

        target, reason = _device(device)
        where = str(ckpt)
        state = files.load(ckpt, map_location="cpu", trust=trust)
        given = of_checkpoint.find(state, where, str(config) if isinstance(config, Path) else config, trust, safe)
        changed, notices = _changed(given.config, cfg_options or {})
        run_custom_imports(changed, where, trust=given.vetted)
        model = _build_model(changed, where, given.vetted)
        if counts := _class_counts(model, state):
            changed, notes = of_checkpoint.with_classes(changed, *counts)
            notices += notes
            model = _build_model(changed, where, given.vetted)
        _require_fit(files.load_weights(model, state, _silent), where)
        pipeline = _build_pipeline(changed, where, given.vetted)
        found = cls(model, pipeline, changed, _classes(state, changed, model), target)
        found.device_reason, found.notices = reason, [*given.notes, *notices]
        return found

    @torch.inference_mode()
    def detect(self, images: Iterable[np.ndarray], batch_size: int = 1) -> list[Detections]:
        """Detect objects in images u8 [H, W, 3] BGR, which are read as they are needed.

        Images that the pipeline brings to one shape go through the model together, ``batch_size`` at a time. Those of
        other shapes wait for their like: padding them to a common shape would change what is found at their borders.
        """
        found: dict[int, Detections] = {}
        waiting: dict[Sequence[int], list[tuple[int, Any]]] = {}
        for number, image in enumerate(images):
            # Text: what mmdet's data sets give a model that detects the classes that are named to it (GLIP).
            text = {"text": self.classes, "custom_entities": True}
            data = self.pipeline({"img": image, "img_id": 0, "img_path": None, **text})
            group = waiting.setdefault(tuple(data["inputs"].shape), [])
            group.append((number, data))
            if len(group) == batch_size:
                found |= self._run(group)
                group.clear()
        for group in waiting.values():
            found |= self._run(group) if group else {}
        return [found[number] for number in sorted(found)]

    def _run(self, group: Sequence[tuple[int, Any]]) -> dict[int, Detections]:
        """Detections of prepared images of one shape, by the number of the image."""
        numbers, data = zip(*group, strict=True)
        batch = {key: [one[key] for one in data] for key in ("inputs", "data_samples")}
        results = [sample.pred_instances for sample in self.model.test_step(batch)]
        self.accelerator.synchronize()
        return {
            number: Detections(
                one.bboxes.float().cpu().numpy().reshape(-1, 4),
                one.scores.float().cpu().numpy(),
                one.labels.cpu().numpy().astype(np.int64),
                self.classes,
            )
            for number, one in zip(numbers, results, strict=True)
        }


def _device(requested: str) -> tuple[torch.device, str]:
    """The torch device, and why it was chosen."""
    accelerator, reason = devices.pick(requested)
    index = requested.partition(":")[2] or "0"
    count = accelerator.count() or 1
    if not index.isdigit() or int(index) >= count:
        raise UserError(f"--device {requested}: there is no {accelerator.name} number {index} (found {count})")
    return accelerator.set_device(int(index)), reason


def _changed(config: Config, options: dict[str, Any]) -> tuple[Config, list[str]]:
    """A copy of the configuration with the options merged in, and lines for the user about them."""
    from fcos_train.config.keys.check import merge_options, translate_v2

    if not options:
        return config, []
    config = copy.deepcopy(config)
    translated, notices = translate_v2(options, config)
    return config, notices + merge_options(config, translated)


def _class_counts(model: torch.nn.Module, state: dict) -> tuple[int, int] | None:
    """The numbers of classes of the model and of the weights, where they differ."""
    from mmcv_overrides.checkpoint.class_rows import class_count
    from mmcv_overrides.checkpoint.weights import under_names_of

    found = (getattr(part, "num_classes", None) for part in model.modules())
    counts = {number for number in found if isinstance(number, int)}
    own = model.state_dict()
    new = class_count(under_names_of(own, state), own, max(counts)) if counts else None
    return None if new is None else (max(counts), new)


def _require_fit(report: MatchReport, where: str) -> None:
    """Refuse a checkpoint that leaves parts of the model untrained, whose detections would be noise."""
    # Older files lack the batch counters, which do not affect evaluation.
    missing = (name for name in report.missing if not name.endswith("num_batches_tracked"))
    untrained = (*report.mismatched, *report.reinitialised, *missing)
    if untrained:
        raise UserError(
            f"{where} does not fit the configuration: {len(untrained)} of {report.total} tensors of the model get no "
            f"trained values ({', '.join(untrained[:3])}{', ...' if len(untrained) > 3 else ''}), and without them the "
            "results would be noise. Give the configuration it was trained with: --config FILE"
        )
    if report.unexpected:
        _log.warning(
            "%s: %d tensors are not used by this configuration (%s, ...)",
            where,
            len(report.unexpected),
            printable(report.unexpected[0]),
        )


def _scope(config: Config, where: str, vetted: bool) -> None:
    """Look names up in mmdet's registries (or those of the configuration's own scope)."""
    from mmengine.registry import DefaultScope

    scope = config.get("default_scope") or "mmdet"
    if not vetted and scope not in PACKAGES:
        raise embedded_config.WAY_OUT.error(f"{where}: the configuration in it asks for parts of '{scope}'")
    if DefaultScope.get_current_instance() is None or DefaultScope.get_current_instance().scope_name != scope:
        DefaultScope.get_instance(f"detector-{scope}", scope_name=scope)


def _build_model(config: Config, where: str, vetted: bool) -> torch.nn.Module:
    """The model with random weights.

    Args:
        where: the checkpoint, for messages. vetted: the configuration may name any part.
    """
    from mmdet.registry import MODELS
    from mmengine.model import revert_sync_batchnorm

    if "model" not in config:
        raise UserError(f"{where}: the configuration has no `model`")
    _scope(config, where, vetted)
    from fcos_train.models import use_level_norms

    make_buildable(config)
    settings = without_pretrained(config.model)
    use_level_norms(settings)
    if "data_preprocessor" not in settings and "data_preprocessor" in config:
        settings["data_preprocessor"] = config.data_preprocessor
    if not vetted:
        check_parts(settings, "model", where)
    require_packages(settings)
    return _built(lambda: revert_sync_batchnorm(MODELS.build(settings)), where, "model")


def _build_pipeline(config: Config, where: str, vetted: bool) -> Callable[[dict], Any]:
    """The test pipeline for an image that is already loaded, without annotations."""
    from mmcv.transforms import Compose

    steps = test_pipeline(config)
    if steps is None:
        raise UserError(
            f"{where}: the configuration has no `test_dataloader` (mmdet 2.x writes `data`); "
            "give one of mmdet 3.x with the same model: --config FILE"
        )
    if any(_is(step, "LoadProposals") for step in steps):
        raise UserError(
            f"{where}: this model (Fast R-CNN) needs proposals of another model for every image (LoadProposals), so it "
            "cannot be given an image alone; evaluate it on a data set with a proposal_file"
        )
    steps = [step for step in steps if not _is(step, "LoadAnnotations")]
    if not steps or not _is(steps[0], *_LOADING):
        raise UserError(f"{where}: the test pipeline does not begin with loading an image, so it cannot be fed one")
    to_float32 = bool(steps[0].get("to_float32", False))
    steps = [{"type": "mmdet.LoadImageFromNDArray", "to_float32": to_float32}, *steps[1:]]
    if not vetted:
        check_parts(steps, "test_pipeline", where)
    require_packages(steps)
    return _built(lambda: Compose(steps), where, "test pipeline")


def _is(step: dict, *names: str) -> bool:
    """Whether a step of a pipeline is of one of these types."""
    return str(step.get("type", "")).rsplit(".", 1)[-1] in names


def _built(make: Callable[[], T], where: str, what: str) -> T:
    """Call ``make``, and report a configuration that does not fit the installed mmdet as a user error."""
    try:
        with missing_packages_named():
            return make()
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"{where}: cannot build the {what} of this configuration: {error}. "
            "If it is of mmdet 2.x, give one of mmdet 3.x with the same model: --config FILE"
        ) from error


def _classes(state: dict, config: Config, model: torch.nn.Module) -> list[str]:
    """Class names of the checkpoint, else of the configuration, else COCO's for 80 classes, else none."""
    meta = state.get("meta") or {}
    data = {str(k).lower(): v for k, v in (meta.get("dataset_meta") or {}).items()}
    sources = [data.get("classes"), meta.get("CLASSES"), (config.get("metainfo") or {}).get("classes")]
    for name in ("test_dataloader", "val_dataloader"):
        dataset = (config.get(name) or {}).get("dataset") or {}
        sources.append((dataset.get("metainfo") or {}).get("classes"))
    count = getattr(getattr(model, "bbox_head", None), "num_classes", None)
    for place, found in enumerate(sources):
        names = [found] if isinstance(found, str) else list(found or ())
        # The names of a config are those of its data set, which may not be that of the weights.
        if names and (place < FROM_FILE or count in (None, len(names))):
            return [printable(name) for name in names]
    return list(COCO_NAMES) if count == len(COCO_NAMES) else []
