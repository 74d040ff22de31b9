"""Why BatchNorm of a head is per level: after a short training, evaluation agrees with training or does not."""

import copy

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from fcos_train.data.batch import fixed_shape_collate
from fcos_train.data.shapes import draw_image
from tests.support import small_detectors
from tests.support.level_norms import norms_of
from tests.support.steps import small_model

SIZE = (96, 128)
STEPS, LEVELS = 20, 2  # P3 and P4: of the smaller maps a batch of four has too few values to agree with any average


def drawn(rng):
    """Four images with shapes."""
    items = []
    for _ in range(4):
        image, shapes, _ = draw_image(rng, SIZE[::-1])
        x, y, width, height = torch.tensor([shape.box for shape in shapes], dtype=torch.float32).view(-1, 4).unbind(1)
        about = {"img_shape": SIZE, "ori_shape": SIZE, "scale_factor": (1.0, 1.0), "img_path": "drawn"}
        sample = DetDataSample(metainfo=about)
        sample.gt_instances = InstanceData(
            bboxes=torch.stack((x, y, x + width, y + height), 1), labels=torch.tensor([shape.label for shape in shapes])
        )
        items.append({"inputs": torch.from_numpy(image.transpose(2, 0, 1).copy()), "data_samples": sample})
    return fixed_shape_collate(items, shapes=[SIZE])


def losses_and_logits(model, inputs, by_batch):
    """The loss, and class logits of each level, with the norms of the head in one mode or the other."""
    model = copy.deepcopy(model)
    for norm in norms_of(model.bbox_head):
        norm.train(by_batch)
    with torch.no_grad():
        logits = model.bbox_head(model.extract_feat(inputs["inputs"]))[0]
        return sum(model(**inputs, mode="loss").values()).item(), logits[:LEVELS]


def trained(kind, monkeypatch):
    """(loss with running statistics / loss with those of the batch, deviation of the logits of each level)"""
    monkeypatch.setitem(small_detectors.NORMS, "fcos-bn", {"type": kind})
    rng, model = np.random.default_rng(0), small_model("fcos-bn")
    data = [model.data_preprocessor(drawn(rng), True) for _ in range(8)]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for step in range(STEPS):
        optimizer.zero_grad()
        sum(model(**data[step % 8], mode="loss").values()).backward()
        optimizer.step()
    with torch.no_grad():  # weights stay, so that running statistics can settle
        for inputs in data * 3:
            model(**inputs, mode="loss")
    (by_batch, expected), (by_running, found) = (losses_and_logits(model, data[0], mode) for mode in (True, False))
    spread = [level - level.mean((0, 2, 3), keepdim=True) for level in expected]
    return by_running / by_batch, [
        ((one - other).norm() / own.norm()).item() for one, other, own in zip(found, expected, spread, strict=True)
    ]


@pytest.mark.parametrize(("kind", "agrees"), [("BN", True), ("SharedBN", False)])
def test_evaluation_after_a_short_training(kind, agrees, monkeypatch):
    """Seen: per level 1.02 times the loss and deviations of 0.12 and 0.10; shared 2.19 times, 2.4 and 1.4."""
    ratio, deviations = trained(kind, monkeypatch)
    if agrees:
        assert ratio < 1.15 and max(deviations) < 0.35
    else:
        assert ratio > 1.4 and min(deviations) > 0.7
