"""Padding of objects: no object is dropped."""

import pytest
import torch

from fcos_train.geometry.boxes import area, pad_objects, rung, scale_boxes, valid_objects


@pytest.mark.parametrize(
    "objects,size", [(0, 8), (1, 8), (8, 8), (9, 16), (64, 64), (65, 128), (1000, 1024), (5000, 8192)]
)
def test_rungs(objects, size):
    assert rung(objects) == size


def test_pad_objects():
    boxes = [torch.rand(3, 4, dtype=torch.float64), torch.zeros(0, 4), torch.rand(9, 4)]
    labels = [torch.tensor([1, 2, 3]), torch.zeros(0, dtype=torch.int64), torch.arange(9)]
    padded, classes, count = pad_objects(boxes, labels)
    assert padded.shape == (3, 16, 4) and padded.dtype == torch.float32 and classes.shape == (3, 16)
    assert count.tolist() == [3, 0, 9]
    for image, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        assert torch.equal(padded[image, : len(box)], box.float()) and torch.equal(classes[image, : len(box)], label)
        assert padded[image, len(box) :].abs().sum() == 0
    assert valid_objects(count, 16).sum(1).tolist() == [3, 0, 9]


def test_too_many_objects_for_a_given_size():
    with pytest.raises(ValueError, match="9 objects, the padded batch holds 8"):
        pad_objects([torch.zeros(9, 4)], [torch.zeros(9)], size=8)


def test_area_and_scale():
    boxes = torch.tensor([[10.0, 20, 30, 60]])
    assert area(boxes).tolist() == [800]
    assert scale_boxes(boxes, 0.5).tolist() == [[15, 30, 25, 50]]
