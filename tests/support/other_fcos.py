"""FCOS of AdelaiDet, detectron2 and torchvision written out from their published architectures, on tensors alone.

A model is a dict of tensors under the names of its package. Bottlenecks have 8 channels instead of 64, the pyramid 32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS, BASE, WIDTH, CLASSES, STRIDES = (3, 4, 6, 3), 8, 32, 3, (8, 16, 32, 64, 128)
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Package:
    """What differs. ``body``: name of a convolution of the backbone -> names of its weight and of its norm.

    ``norm``: of the towers: gn, bn (one per level), shared (statistics per level, one weight) or none.
    ``levels``: 5, or 3 without the extra ones (FCOS-RT).
    """

    name: str
    body: Callable[[str], tuple[str, str]]
    pyramid: tuple[str, str, str]
    towers: tuple[str, str]
    layers: tuple[str, str, str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rgb: bool
    stride_in_first: bool
    offset: float
    threshold: tuple[str, float]
    scales: str = ""
    norm: str = "gn"
    levels: int = 5


def _detectron2_body(name: str) -> tuple[str, str]:
    return f"backbone.bottom_up.{name}.weight", f"backbone.bottom_up.{name}.norm"


def _torchvision_body(name: str) -> tuple[str, str]:
    """``stem.conv1`` -> ``conv1``, ``bn1``; ``res2.0.shortcut`` -> ``layer1.0.downsample.0``, ``.1``."""
    name = name.removeprefix("stem.")
    if name.startswith("res"):
        name = f"layer{int(name[3]) - 1}{name[4:]}"
    if name.endswith("shortcut"):
        inner = name.replace("shortcut", "downsample")
        return f"backbone.body.{inner}.0.weight", f"backbone.body.{inner}.1"
    return f"backbone.body.{name}.weight", f"backbone.body.{name.replace('conv', 'bn')}"


_D2_PYRAMID = ("backbone.fpn_lateral{level}", "backbone.fpn_output{level}", "backbone.top_block.p{level}")
_TV_PYRAMID = ("backbone.fpn.inner_blocks.{place}.0", "backbone.fpn.layer_blocks.{place}.0")
_MSRA = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_ADEL = "proposal_generator.fcos_head."
ADELAIDET = Package(
    "AdelaiDet", _detectron2_body, _D2_PYRAMID,
    (f"{_ADEL}cls_tower", f"{_ADEL}bbox_tower"), tuple(_ADEL + n for n in ("cls_logits", "bbox_pred", "ctrness")),
    *_MSRA, False, True, 0.5, ("cls", 0.05), f"{_ADEL}scales.{{place}}.scale",
)  # fmt: skip
DETECTRON2 = Package(
    "detectron2", _detectron2_body, _D2_PYRAMID,
    ("head.cls_subnet", "head.bbox_subnet"), ("head.cls_score", "head.bbox_pred", "head.ctrness"),
    *_MSRA, False, True, 0.5, ("score", 0.2),
)  # fmt: skip
TORCHVISION = Package(
    "torchvision", _torchvision_body, (*_TV_PYRAMID, "backbone.fpn.extra_blocks.p{level}"),
    ("head.classification_head.conv", "head.regression_head.conv"),
    ("head.classification_head.cls_logits", "head.regression_head.bbox_reg", "head.regression_head.bbox_ctrness"),
    *_IMAGENET, True, False, 0.0, ("score", 0.2),
)  # fmt: skip


def _convolutions() -> list[tuple[str, int, int, int]]:
    """(name, channels in, channels out, kernel) of the backbone, in detectron2's words."""
    found, inside = [("stem.conv1", 3, BASE, 7)], BASE
    for stage, blocks in enumerate(BLOCKS):
        width = BASE * 2**stage
        for block in range(blocks):
            path = f"res{stage + 2}.{block}"
            if block == 0:
                found.append((f"{path}.shortcut", inside, 4 * width, 1))
            sizes = ((inside, width, 1), (width, width, 3), (width, 4 * width, 1))
            found += [(f"{path}.conv{n}", *size) for n, size in enumerate(sizes, 1)]
            inside = 4 * width
    return found


def random_weights(package: Package, seed: int = 0) -> Weights:
    """Weights for which some hundred places pass the threshold."""
    generator, found = torch.Generator().manual_seed(seed), {}

    def values(*shape: int, gain: float = 1.0) -> Tensor:
        fan = torch.Size(shape[1:]).numel()
        return torch.randn(shape, generator=generator) * (gain / fan) ** 0.5

    def norm(name: str, count: int, running: bool) -> None:
        found[f"{name}.weight"] = 1 + 0.1 * values(count)
        found[f"{name}.bias"] = 0.1 * values(count)
        if running:
            found[f"{name}.running_mean"] = 0.1 * values(count)
            found[f"{name}.running_var"] = 0.5 + torch.rand(count, generator=generator)

    def layer(name: str, out: int, inside: int, kernel: int, bias: float = 0.0, gain: float = 1.0) -> None:
        found[f"{name}.weight"] = values(out, inside, kernel, kernel, gain=gain)
        found[f"{name}.bias"] = bias + 0.1 * values(out)

    for name, inside, out, kernel in _convolutions():
        weight, statistics = package.body(name)
        found[weight] = values(out, inside, kernel, kernel)
        norm(statistics, out, running=True)
        if name.endswith("conv3"):  # so that the sums of the blocks stay in bounds
            found[f"{statistics}.weight"] *= 0.3
    found[f"{package.body('stem.conv1')[1]}.running_var"] *= (58 / package.std[0]) ** 2  # pixels have that spread
    for place in range(3):
        layer(package.pyramid[0].format(place=place, level=place + 3), WIDTH, BASE * 8 * 2**place, 1)
        layer(package.pyramid[1].format(place=place, level=place + 3), WIDTH, WIDTH, 3)
    for level in (6, 7)[: package.levels - 3]:
        layer(package.pyramid[2].format(level=level), WIDTH, WIDTH, 3)
    step = 2 if package.norm == "none" else 3
    for tower in package.towers:
        for index in range(0, 2 * step, step):
            layer(f"{tower}.{index}", WIDTH, WIDTH, 3)
            if package.norm == "gn":
                norm(f"{tower}.{index + 1}", WIDTH, running=False)
            for place in range(package.levels) if package.norm in ("bn", "shared") else ():
                norm(f"{tower}.{index + 1}.{place}", WIDTH, running=True)
                if package.norm == "shared":
                    for leaf in ("weight", "bias"):
                        found[f"{tower}.{index + 1}.{leaf}"] = found.pop(f"{tower}.{index + 1}.{place}.{leaf}")
    for name, out, bias, gain in zip(package.layers, (CLASSES, 4, 1), (-2.0, 3.0, 0.0), (2.0, 1.0, 2.0), strict=True):
        layer(name, out, WIDTH, 3, bias, gain)
    for place in range(package.levels) if package.scales else ():
        found[package.scales.format(place=place)] = torch.tensor([0.8 + 0.1 * place])
    return found


@torch.no_grad()
def detect(package: Package, weights: Weights, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [N, 4], scores [N] and labels [N] of an image u8 [H, W, 3] BGR whose sides are multiples of 128.

    Boxes are clipped before the suppression, as in detectron2 and torchvision (AdelaiDet: afterwards).
    """
    pixels = image.permute(2, 0, 1)[None].float()
    pixels = pixels.flip(1) if package.rgb else pixels
    x = (pixels - torch.tensor(package.mean)[:, None, None]) / torch.tensor(package.std)[:, None, None]
    boxes, scores, labels = [], [], []
    for place, feature in enumerate(_pyramid(package, weights, _body(package, weights, x))):
        one = _level(package, weights, feature, place)
        for found, part in zip((boxes, scores, labels), one, strict=True):
            found.append(part)
    height, width = image.shape[:2]
    limit = torch.tensor([width, height, width, height])
    rows = torch.minimum(torch.cat(boxes).clamp(min=0), limit)
    return _suppress(rows, torch.cat(scores), torch.cat(labels))


def _conv(weights: Weights, name: str, x: Tensor, **options: int) -> Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)


def _norm(weights: Weights, name: str, affine: str, x: Tensor) -> Tensor:
    running = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    return F.batch_norm(x, *running, weights[f"{affine}.weight"], weights[f"{affine}.bias"], eps=1e-5)


def _body(package: Package, weights: Weights, x: Tensor) -> list[Tensor]:
    def apply(name: str, y: Tensor, stride: int) -> Tensor:
        weight, statistics = package.body(name)
        kernel = weights[weight]
        y = F.conv2d(y, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return _norm(weights, statistics, statistics, y)

    x = F.max_pool2d(F.relu(apply("stem.conv1", x, 2)), 3, 2, 1)
    found = []
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            path, stride = f"res{stage + 2}.{block}", 2 if stage and not block else 1
            first, second = (stride, 1) if package.stride_in_first else (1, stride)
            y = F.relu(apply(f"{path}.conv1", x, first))
            y = apply(f"{path}.conv3", F.relu(apply(f"{path}.conv2", y, second)), 1)
            x = F.relu(y + (apply(f"{path}.shortcut", x, stride) if not block else x))
        found.append(x)
    return found[1:]


def _pyramid(package: Package, weights: Weights, maps: list[Tensor]) -> list[Tensor]:
    inner, outer, extra = package.pyramid
    sums = [_conv(weights, inner.format(place=n, level=n + 3), one) for n, one in enumerate(maps)]
    for n in (1, 0):
        sums[n] = sums[n] + F.interpolate(sums[n + 1], scale_factor=2, mode="nearest")
    levels = [_conv(weights, outer.format(place=n, level=n + 3), one, padding=1) for n, one in enumerate(sums)]
    if package.levels == 3:
        return levels
    levels.append(_conv(weights, extra.format(level=6), levels[2], stride=2, padding=1))
    levels.append(_conv(weights, extra.format(level=7), F.relu(levels[3]), stride=2, padding=1))
    return levels


def _tower(package: Package, weights: Weights, tower: str, x: Tensor, place: int) -> Tensor:
    step = 2 if package.norm == "none" else 3
    for index in range(0, 2 * step, step):
        x, name = _conv(weights, f"{tower}.{index}", x, padding=1), f"{tower}.{index + 1}"
        if package.norm == "gn":
            x = F.group_norm(x, 32, weights[f"{name}.weight"], weights[f"{name}.bias"])
        elif package.norm != "none":
            x = _norm(weights, f"{name}.{place}", name if package.norm == "shared" else f"{name}.{place}", x)
        x = F.relu(x)
    return x


def _level(package: Package, weights: Weights, x: Tensor, place: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels of the (place, class) pairs of a level that pass the threshold."""
    kinds = [_tower(package, weights, tower, x, place) for tower in package.towers]
    cls, box, ctr = package.layers
    classes = _conv(weights, cls, kinds[0], padding=1)[0].sigmoid().flatten(1).t()  # [P, C]
    sides = _conv(weights, box, kinds[1], padding=1)[0].flatten(1).t()
    center = _conv(weights, ctr, kinds[1], padding=1)[0].sigmoid().flatten()
    if package.scales:
        sides = sides * weights[package.scales.format(place=place)]
    sides = F.relu(sides) * STRIDES[place]
    height, width = x.shape[-2:]
    y, x_ = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = (torch.stack((x_, y), -1).reshape(-1, 2).float() + package.offset) * STRIDES[place]
    boxes = torch.cat((points - sides[:, :2], points + sides[:, 2:]), 1)
    scores = (classes * center[:, None]).sqrt()
    kind, least = package.threshold
    rows, labels = ((classes if kind == "cls" else scores) > least).nonzero(as_tuple=True)
    return boxes[rows], scores[rows, labels], labels


def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy, IoU above 0.6 within a class; the best 100."""
    order, kept = scores.argsort(descending=True).tolist(), []
    for one in order:
        if all(labels[one] != labels[other] or _iou(boxes[one], boxes[other]) <= 0.6 for other in kept):
            kept.append(one)
        if len(kept) == 100:
            break
    return boxes[kept], scores[kept], labels[kept]


def _iou(one: Tensor, other: Tensor) -> float:
    low, high = torch.maximum(one[:2], other[:2]), torch.minimum(one[2:], other[2:])
    inter = (high - low).clamp(min=0).prod()
    areas = (one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()
    return float(inter / (areas - inter).clamp(min=1e-9))
