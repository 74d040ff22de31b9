"""Batches of fixed shape: nothing lost, nothing added, two ranks see what one sees, losses as on mmdet's way."""

import copy
from collections import Counter

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import DefaultSampler
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

import fcos_train.models  # noqa: F401
from fcos_train.config import batch_shapes as fixed_batch
from fcos_train.config.load import load_config
from fcos_train.data.batch import ShapeBatchSampler, fitting_shape, fixed_shape_collate
from fcos_train.geometry.padded import PaddedObjects

SHAPES = [(800, 1344), (1344, 800)]


class Images:
    """A data set of which only the sizes matter."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def get_data_info(self, index):
        return dict(zip(("height", "width"), self.sizes[index], strict=True))


def sampler(sizes, rank=0, ranks=1, epoch=0, batch=4, **more):
    inner = DefaultSampler(Images(sizes), shuffle=True, seed=3)
    inner.rank, inner.world_size = rank, ranks
    inner.set_epoch(epoch)
    return ShapeBatchSampler(inner, batch, **more)


MIXED = [(480, 640)] * 13 + [(640, 480)] * 6


@pytest.mark.parametrize("epoch", [0, 1])
def test_every_image_once_and_full_batches_of_one_orientation(epoch):
    batches = list(sampler(MIXED, epoch=epoch))
    assert len(batches) == len(sampler(MIXED)) == 6  # ceil(13 / 4) + ceil(6 / 4)
    assert all(len(batch) == 4 for batch in batches)
    seen = Counter(index for batch in batches for index in batch)
    assert set(seen) == set(range(19)) and sum(seen.values()) == 24
    assert all(len({MIXED[index] for index in batch}) == 1 for batch in batches)


def test_epochs_differ_and_repeat():
    assert list(sampler(MIXED, epoch=1)) == list(sampler(MIXED, epoch=1)) != list(sampler(MIXED))


def test_order_of_a_plain_set_is_that_of_the_sampler():
    inner = DefaultSampler(Images([(480, 640)] * 8), shuffle=True, seed=3)
    assert [i for batch in ShapeBatchSampler(inner, 4) for i in batch] == list(inner)


def test_two_ranks_see_what_one_sees_with_twice_the_batch():
    one = list(sampler(MIXED, batch=4))
    two = list(zip(sampler(MIXED, 0, 2, batch=2), sampler(MIXED, 1, 2, batch=2), strict=True))
    assert [set(a) | set(b) for a, b in two] == [set(batch) for batch in one]


def test_drop_last():
    assert len(list(sampler(MIXED, drop_last=True))) == len(sampler(MIXED, drop_last=True)) == 4


def test_fewer_images_than_a_batch():
    assert list(sampler([(480, 640)] * 2)) == [[0, 1, 0, 1]] or list(sampler([(480, 640)] * 2)) == [[1, 0, 1, 0]]


def test_finer_shapes_group_by_the_canvas_that_is_needed():
    shapes = [(800, 1088), (800, 1344), (1344, 800)]
    sizes = [(480, 640)] * 4 + [(360, 640)] * 4 + [(640, 480)] * 4  # 800x1067, 750x1333, 1067x800
    batches = list(sampler(sizes, scale=(1333, 800), shapes=shapes))
    assert sorted(map(sorted, batches)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_fitting_shape():
    assert fitting_shape([(800, 1067)], SHAPES, 32) == (800, 1344)
    assert fitting_shape([(1333, 750), (900, 800)], SHAPES, 32) == (1344, 800)
    assert fitting_shape([(801, 801)], SHAPES, 32) == (832, 832)
    assert fitting_shape([(800, 1067)], [(1344, 1344)], 32) == (1344, 1344)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco", SHAPES),
        ("fcos/fcos_tiny_shapes", [(96, 96)]),
        ("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco", SHAPES),
    ],
)
def test_shapes_follow_from_the_pipeline(name, shapes):
    cfg = load_config(name)
    line = fixed_batch.set_batch(cfg, False)
    assert cfg.train_dataloader.collate_fn.shapes == shapes and f"{shapes[0][0]}x{shapes[0][1]}" in line
    fixed_batch.reset_batch(cfg)
    assert cfg.train_dataloader.batch_sampler.type == "AspectRatioBatchSampler"
    assert cfg.model.data_preprocessor.type == "DetDataPreprocessor"


def test_shapes_of_the_config_are_kept():
    cfg = load_config("fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco")
    cfg.train_dataloader.collate_fn = dict(type="fixed_shape_collate", shapes=[(1344, 1344)])
    assert "shapes 1344x1344 " in fixed_batch.set_batch(cfg, False)


def items(sizes, objects, ignored=0):
    generator = torch.Generator().manual_seed(0)
    made = []
    for (height, width), number in zip(sizes, objects, strict=True):
        sample = DetDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width), img_id=len(made)))
        for name, count in (("gt_instances", number), ("ignored_instances", ignored)):
            near = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.6
            far = near + 8 + torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.3
            boxes = HorizontalBoxes(torch.cat([near, far], 1))
            labels = torch.randint(0, 4, (count,), generator=generator)
            setattr(sample, name, InstanceData(bboxes=boxes, labels=labels))
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        made.append(dict(inputs=image, data_samples=sample))
    return made


def test_collate_keeps_every_pixel_and_box():
    made = items([(60, 80), (50, 96)], [3, 11], ignored=2)
    batch = fixed_shape_collate(made, shapes=[(96, 64), (64, 96)], divisor=32)
    images, objects = batch["inputs"], batch["data_samples"]
    assert images.dtype == torch.uint8 and images.shape == (2, 3, 64, 96)
    assert isinstance(objects, PaddedObjects) and objects.boxes.shape == (2, 16, 4)
    assert objects.count.tolist() == [3, 11] and objects.ignore[1].tolist() == [2, 2]
    assert objects.image_size.tolist() == [[60, 80], [50, 96]] and objects.padded_size.tolist() == [[64, 96], [64, 96]]
    assert [sample.img_id for sample in objects] == [0, 1] and len(objects) == 2
    for b, item in enumerate(made):
        height, width = item["inputs"].shape[-2:]
        truth = item["data_samples"].gt_instances
        assert torch.equal(images[b, :, :height, :width], item["inputs"])
        assert not images[b, :, height:].any() and not images[b, :, :, width:].any()
        assert torch.equal(objects.boxes[b, : len(truth)], truth.bboxes.tensor)
        assert torch.equal(objects.labels[b, : len(truth)], truth.labels)


def detector(name):
    cfg = load_config("fcos/fcos_tiny_shapes")
    model = copy.deepcopy(cfg.model)
    model.data_preprocessor.update(type="FixedShapePreprocessor", bgr_to_rgb=True)
    model.bbox_head.update(num_classes=4)
    if name == "FSAF":
        model = copy.deepcopy(load_config("mmdet::fsaf/fsaf_r50_fpn_1x_coco").model)
        model.backbone = copy.deepcopy(cfg.model.backbone)
        model.neck.update(in_channels=[16, 32, 64, 128], out_channels=32)
        model.bbox_head.update(in_channels=32, feat_channels=32, stacked_convs=1, num_classes=4)
        model.data_preprocessor.update(type="FixedShapePreprocessor")
    model.bbox_head.type = f"Static{name}Head"
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(model).train()


@pytest.mark.parametrize("name", ["FCOS", "FSAF"])
@pytest.mark.parametrize("objects", [(3, 11), (0, 1), (0, 0)])
def test_losses_and_gradients_are_those_of_mmdets_batch(name, objects):
    """Same canvas, so same padding: the two ways may then differ in nothing."""
    model = detector(name)
    made = items([(60, 80), (50, 96)], objects, ignored=1)
    ours = fixed_shape_collate(copy.deepcopy(made), shapes=[(64, 96)], divisor=32)
    theirs = {key: [item[key] for item in made] for key in ("inputs", "data_samples")}
    found = []
    for data in (ours, theirs):
        model.zero_grad()
        data = model.data_preprocessor(data, training=True)
        found.append([data["inputs"]])
        total, shown = model.parse_losses(model(**data, mode="loss"))
        total.backward()
        found[-1] += [shown, {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}]
    (images, losses, grads), (images_, losses_, grads_) = found
    assert torch.equal(images, images_)
    torch.testing.assert_close(losses, losses_, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(grads, grads_, rtol=1e-5, atol=1e-6)


def test_a_wider_canvas_adds_background_points_only():
    """FCOS counts points of the padding as background: the regression losses stay, loss_cls grows by theirs."""
    model = detector("FCOS").eval()  # batch norms as constants
    made = items([(60, 80), (50, 96)], (3, 5))
    losses = []
    for shape in ((64, 96), (96, 128)):
        batch = model.data_preprocessor(fixed_shape_collate(made, shapes=[shape], divisor=32), training=True)
        losses.append(model(**batch, mode="loss"))
    near, far = losses
    assert far["loss_cls"] > near["loss_cls"]
    torch.testing.assert_close(near["loss_bbox"], far["loss_bbox"], rtol=0.1, atol=0)
