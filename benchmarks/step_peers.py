"""Who takes part in ``train_step.py``: ours, mmdet's and torchvision's FCOS on the same images and boxes.

A contestant is built for one :class:`Scene` and one part of the work, and is then a function without arguments that
does one step and returns the loss (0-d, on the device):

* ``step``: forward and backward on tensors that are on the device, normalised;
* ``train``: from uint8 in host memory (pinned on an accelerator) to updated weights, each side its own way. Ours:
  ``fixed_shape_collate``, two copies, normalisation on the device, ``StepOptimWrapper``. mmdet: a list of images,
  ``DetDataPreprocessor``, mmengine's own ``OptimWrapper`` or ``AmpOptimWrapper``, and every loss read back in every
  step, as mmengine's ``RuntimeInfoHook`` does. torchvision: its transform, autocast, SGD, and the sum of the losses
  read back, as its reference training script does. SGD with momentum and a clipped norm (torchvision: not clipped).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from unittest import mock

import mmcv_overrides

mmcv_overrides.activate()

import torch  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from mmengine.dataset import pseudo_collate  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from fcos_train.audit import step as trainer  # noqa: E402
from fcos_train.config.load import load_config
from fcos_train.config.options import TrainOptions  # noqa: E402
from fcos_train.engine import compiled  # noqa: E402
from mmcv_overrides.device import Accelerator  # noqa: E402

OBJECTS = 7  # COCO has 7.3 in an image
SGD = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}
Step = Callable[[], Tensor]


class AbsentError(Exception):
    """This contestant cannot take part, and why."""


@dataclass(frozen=True)
class Scene:
    """The same images, boxes and initial weights for everybody."""

    config: str
    accelerator: Accelerator
    batch: int
    size: tuple[int, int]  # rows, columns

    @cached_property
    def objects(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """u8 image [3, H, W], boxes [7, 4] f32 of 10 to 40 % of its sides, labels [7] i64 of each image."""
        generator = torch.Generator().manual_seed(0)
        height, width = self.size
        scale = torch.tensor([width, height, width, height])
        found = []
        for _ in range(self.batch):
            image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
            near, side = torch.rand(OBJECTS, 2, generator=generator) * 0.6, torch.rand(OBJECTS, 2, generator=generator)
            boxes = torch.cat([near, near + side * 0.3 + 0.1], 1) * scale
            found.append((image, boxes, torch.randint(0, self.classes, (OBJECTS,), generator=generator)))
        return found

    @property
    def classes(self) -> int:
        return self.model.bbox_head.num_classes

    @cached_property
    def model(self) -> ConfigDict:
        """mmdet's model, to be started from random weights."""
        model = load_config(self.config).model
        model.backbone.init_cfg = None
        return model

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        torch.manual_seed(0)
        MMLogger.get_current_instance().setLevel("WARNING")  # one line for each parameter otherwise
        model = MODELS.build(self.model)
        model.init_weights()
        return model.state_dict()

    def items(self) -> list[dict]:
        """What mmdet's pipelines end with."""
        return [{"inputs": self.pinned(image), "data_samples": self._sample(*rest)} for image, *rest in self.objects]

    def _sample(self, boxes: Tensor, labels: Tensor) -> DetDataSample:
        shapes = {key: self.size for key in ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")}
        sample = DetDataSample(metainfo={**shapes, "scale_factor": (1.0, 1.0), "flip": False})
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
        return sample

    def pinned(self, tensor: Tensor) -> Tensor:
        return tensor if self.accelerator.name == "cpu" else tensor.pin_memory()

    def autocast(self, half: bool):
        return torch.autocast(self.accelerator.name, dtype=torch.bfloat16) if half else nullcontext()

    def of_one_image(self) -> Scene:
        return replace(self, batch=1)


def forward_backward(model: nn.Module, losses: Callable[[], dict], scene: Scene, half: bool) -> Tensor:
    """One step without the optimizer. Gradients are new in every step."""
    for parameter in model.parameters():
        parameter.grad = None
    with scene.autocast(half):
        parts = losses()
    total = sum(v if torch.is_tensor(v) else sum(v) for k, v in parts.items() if "loss" in k)
    total.backward()
    return total.detach()


def ours(mode: str, half: bool, compile_first: bool = False) -> Callable[[Scene, str], Step]:
    """The step as ``fcos-train train --step-mode MODE`` sets it up; ``compile_first``: a graph of compiled code."""

    def build(scene: Scene, part: str) -> Step:
        if mode == "graph" and part != "train":
            raise AbsentError("one graph holds the whole step: --part train")
        options = TrainOptions(
            config=scene.config,
            device=scene.accelerator.name,
            opt_level="bf16" if half else "O0",
            loss_scale=1.0,
            step_mode=mode,
            cfg_options={"optim_wrapper.optimizer": {"type": "SGD", **SGD}},
        )
        trained = trainer.build_step(options, scene.size)
        trained.model.load_state_dict(scene.weights)
        if compile_first:
            compiled.compile_losses(trained.model, print)
        data = trained.collate(scene.items())
        if scene.accelerator.name != "cpu":
            data = {"inputs": data["inputs"].pin_memory(), "data_samples": data["data_samples"].pin_memory()}
        if part == "train":
            return lambda: trained.model.train_step(data, trained.wrapper)["loss"].detach()
        ready = trained.model.data_preprocessor(data, True)
        return lambda: forward_backward(trained.model, lambda: trained.model(**ready, mode="loss"), scene, half)

    return build


class CpuAmpOptimWrapper(OptimWrapper):
    """mmengine's AmpOptimWrapper refuses a CPU; this is what it would do there."""

    def optim_context(self, model):
        return torch.autocast("cpu", dtype=torch.bfloat16)


def mmdet(half: bool, dense: bool) -> Callable[[Scene, str], Step]:
    """mmdet's detector and mmengine's optimizer wrapper, untouched by the overrides."""

    def build(scene: Scene, part: str) -> Step:
        model = MODELS.build(scene.model).train()
        model.load_state_dict(scene.weights)
        model.to(scene.accelerator.name)
        model.data_preprocessor._non_blocking = True  # a constructor argument; no config of mmdet sets it
        if dense:
            model.to(memory_format=torch.channels_last)
        data = pseudo_collate(scene.items())
        if part == "train":
            wrapper = mmdet_wrapper(scene, model, half)

            def train() -> Tensor:
                losses = model.train_step(data, wrapper)
                for value in losses.values():
                    value.item()
                return losses["loss"].detach()

            return train
        ready = model.data_preprocessor(data, True)
        if dense:
            ready["inputs"] = ready["inputs"].contiguous(memory_format=torch.channels_last)
        return lambda: forward_backward(model, lambda: model(**ready, mode="loss"), scene, half)

    return build


def mmdet_wrapper(scene: Scene, model: nn.Module, half: bool) -> OptimWrapper:
    cfg = load_config(scene.config).optim_wrapper
    groups: list[dict] = []
    constructor = DefaultOptimWrapperConstructor({"type": "OptimWrapper", "optimizer": SGD}, cfg.get("paramwise_cfg"))
    constructor.add_params(groups, model)
    arguments = {"optimizer": torch.optim.SGD(groups, **SGD), "clip_grad": {"max_norm": 35, "norm_type": 2}}
    if not half:
        return OptimWrapper(**arguments)
    if scene.accelerator.name == "cpu":
        return CpuAmpOptimWrapper(**arguments)
    return AmpOptimWrapper(dtype="bfloat16", loss_scale={"enabled": False}, **arguments)  # bf16 needs no scale


def torchvision(half: bool, dense: bool) -> Callable[[Scene, str], Step]:
    """torchvision's ``fcos_resnet50_fpn`` with the frozen norms and stages that it has with pretrained weights."""

    def build(scene: Scene, part: str) -> Step:
        model = torchvision_model(scene).train().to(scene.accelerator.name)
        if dense:
            model.to(memory_format=torch.channels_last)
        host = [
            (scene.pinned(image), scene.pinned(boxes), scene.pinned(labels)) for image, boxes, labels in scene.objects
        ]

        def to_device() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
            moved = [[t.to(scene.accelerator.name, non_blocking=True) for t in image] for image in host]
            return [image / 255 for image, *_ in moved], [{"boxes": b, "labels": k} for _, b, k in moved]

        if part == "step":
            ready = to_device()
            return lambda: forward_backward(model, lambda: as_losses(model(*ready)), scene, half)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], **SGD)

        def train() -> Tensor:
            data = to_device()
            total = forward_backward(model, lambda: as_losses(model(*data)), scene, half)
            optimizer.step()
            total.item()
            return total

        return train

    return build


def as_losses(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"loss_{name}": value for name, value in parts.items()}


def torchvision_model(scene: Scene) -> nn.Module:
    """Random weights; no download. Its resizing is set to the size that the images have.

    Raises:
        AbsentError: torchvision is not installed or does not load.
    """
    try:
        # Training calls none of its compiled operators, so a build for another torch serves as well: leave out the
        # descriptions of those operators, which are all that fails there.
        with mock.patch("torch.library.register_fake", lambda *_, **__: lambda function: function):
            import torchvision  # noqa: F401
        from torchvision.models import resnet50
        from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
        from torchvision.models.detection.fcos import FCOS
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7
        from torchvision.ops.misc import FrozenBatchNorm2d
    except (ImportError, OSError, RuntimeError) as error:
        raise AbsentError(f"torchvision does not load: {str(error).splitlines()[0]}") from error
    torch.manual_seed(0)
    body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    backbone = _resnet_fpn_extractor(body, 3, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return FCOS(backbone, scene.classes, min_size=min(scene.size), max_size=max(scene.size))


def mmcv_operators() -> str:
    """Whether mmdet's focal loss on a GPU is mmcv's compiled one."""
    import mmcv.ops

    compiled = getattr(mmcv.ops.focal_loss.ext_module, "__file__", "").endswith((".so", ".pyd"))
    return "compiled" if compiled else "not compiled here (mmcv._ext is absent): portable ones in torch"


@dataclass(frozen=True)
class Contestant:
    """``family`` names whose floating-point operations it does; ``half``: bf16 autocast."""

    family: str
    half: bool
    build: Callable[[Scene, str], Step]


CONTESTANTS = {
    "mmdet fp32": Contestant("mmdet", False, mmdet(False, False)),
    "mmdet bf16": Contestant("mmdet", True, mmdet(True, False)),
    "mmdet bf16 channels_last": Contestant("mmdet", True, mmdet(True, True)),
    "torchvision bf16": Contestant("torchvision", True, torchvision(True, False)),
    "torchvision bf16 channels_last": Contestant("torchvision", True, torchvision(True, True)),
    "eager fp32": Contestant("mmdet", False, ours("eager", False)),
    "eager bf16": Contestant("mmdet", True, ours("eager", True)),
    "compile bf16": Contestant("mmdet", True, ours("compile", True)),
    "graph bf16": Contestant("mmdet", True, ours("graph", True)),
    "graph of compiled bf16": Contestant("mmdet", True, ours("graph", True, compile_first=True)),
}
FAMILIES = {"mmdet": mmdet(False, False), "torchvision": torchvision(False, False)}
