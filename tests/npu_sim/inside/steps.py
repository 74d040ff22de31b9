"""Counts training steps on the simulated NPU. Prints one line of JSON: the counts of each step and of all.

usage: steps.py HEAD[:NORM] STEPS [padded|samples] [PRECISION] [OBJECTS,OBJECTS,...]

``padded`` passes the head a batch of fixed shape that is on the device already; ``samples`` is mmdet's path: lists of
images and objects on the host, through the data preprocessor. ResNet-18, FPN with 64 channels, 2 x 128 x 160.
"""

from __future__ import annotations

import json
import sys

import mmcv_overrides

mmcv_overrides.activate()

import mmdet
import torch
import torch_npu  # the simulated device
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData

import fcos_train.models  # noqa: F401
from fcos_train.geometry.padded import PaddedObjects
from fcos_train.models.fast.fold_bn import fold_frozen_bn
from mmcv_overrides import device, precision

SIZE, BATCH = (128, 160), 2


def build(head: str):
    """The model of that head shipped with mmdet, scaled down, with the norm that is given for the head."""
    head, _, norm = head.partition(":")
    folder = mmdet.__path__[0] + "/.mim/configs/"
    shipped = "fsaf/fsaf_r50_fpn_1x_coco.py" if "FSAF" in head else "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"
    cfg = Config.fromfile(folder + shipped).model
    cfg.backbone.update(depth=18, init_cfg=None, style="pytorch", norm_cfg=dict(type="BN", requires_grad=False))
    cfg.neck.update(in_channels=[64, 128, 256, 512], out_channels=64)
    cfg.bbox_head.update(type=head, in_channels=64, feat_channels=64)
    if norm:
        cfg.bbox_head["norm_cfg"] = dict(type=norm)
    model = MODELS.build(cfg)
    precision.keep_losses_fp32(model)
    if head.startswith("FixedShape"):
        fold_frozen_bn(model)  # both as in the trainer's fixed-shape step
        model.bbox_head.merge_levels = True
    return model.to(device.current().set_device(0)).train()


def objects(generator: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    corner = torch.rand(count, 2, generator=generator) * 75
    size = torch.rand(count, 2, generator=generator) * 45 + 5
    return torch.cat((corner, corner + size), 1), torch.randint(0, 80, (count,), generator=generator)


def sample(boxes: torch.Tensor, labels: torch.Tensor) -> DetDataSample:
    meta = dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0), pad_shape=SIZE, batch_input_shape=SIZE)
    made = DetDataSample(metainfo=meta)
    made.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    return made


def batches(counts: list[int]):
    for index, count in enumerate(counts):
        generator = torch.Generator().manual_seed(index)
        images = torch.randint(0, 255, (BATCH, 3, *SIZE), dtype=torch.uint8, generator=generator)
        yield images, [objects(generator, max(count - k, 0)) for k in range(BATCH)]


def step_of_samples(model, wrapper, images, found) -> None:
    data = dict(inputs=list(images), data_samples=[sample(*pair) for pair in found])
    model.train_step(data, wrapper)


def step_of_padded(model, wrapper, images, objects) -> None:
    with wrapper.optim_context(model):
        mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
        features = model.extract_feat((images.float() - mean) / std)
        losses = model.bbox_head.loss(features, objects)
        loss, _ = model.parse_losses({k: v for k, v in losses.items() if "loss" in k})
    wrapper.update_params(loss)


def prepared(way: str, images, found) -> tuple:
    if way == "samples":
        return images, found
    none = [boxes.new_zeros(0, 4) for boxes, _ in found]
    objects = PaddedObjects.gather(*zip(*found), none, [SIZE] * len(found))
    to_npu = lambda table: table.pin_memory().to("npu", non_blocking=True)  # noqa: E731
    return to_npu(images), objects.moved(to_npu)


def main(head: str, steps: str, way: str = "padded", level: str = "O0", counts: str = "5,12,0,9,16,3") -> None:
    torch.manual_seed(0)
    device.use(device.pick("npu")[0])
    register_all_modules(init_default_scope=True)
    model = build(head)
    optimizer = dict(type="SGD", lr=0.001, momentum=0.9, weight_decay=1e-4)
    clip = dict(max_norm=35, norm_type=2)
    level, _, scale = level.partition(":")
    cfg = dict(type="OptimWrapper", optimizer=optimizer, clip_grad=clip, opt_level=level, loss_scale=scale or 1.0)
    wrapper = build_optim_wrapper(model, cfg)
    objects_each = [int(n) for n in counts.split(",")]
    plan = [objects_each[i % len(objects_each)] for i in range(int(steps))]
    step = step_of_padded if way == "padded" else step_of_samples
    seen: set[str] = set()
    rows = []
    for images, found in batches(plan):
        batch = prepared(way, images, found)
        torch_npu._C.clear()
        step(model, wrapper, *batch)
        counted = torch_npu._C.counts()
        rows.append(
            {
                "launches": sum(counted["launches"].values()),
                "new_signatures": len(set(counted["signatures"]) - seen),
                "syncs": sum(n for name, n in counted["events"].items() if name.startswith("sync:")),
                "events": counted["events"],
                "not_native": counted["not_native"],
                "top": dict(sorted(counted["launches"].items(), key=lambda kv: -kv[1])[:40]),
            }
        )
        seen |= set(counted["signatures"])
    finite = all(torch.isfinite(p).all().item() for p in model.parameters())
    print(json.dumps({"steps": rows, "finite": finite, "grad_norm": wrapper.last_grad_norm.item()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
