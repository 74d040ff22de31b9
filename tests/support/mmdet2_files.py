"""Configurations in the layouts that mmdet 2.x documents, as their checkpoints carry them: four models at a small size.

The texts are written by hand. :func:`twin` is the same model in a configuration that mmdet 3.x brings along.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from mmengine.config import Config

from fcos_train.data.shapes import CLASSES
from fcos_train.start import start
from tests.support.small_detectors import lively, shipped, small_config

SCALE = (160, 128)
# Sections that all four have; the model, train_cfg and test_cfg come before them.
COMMON = """
dataset_type = 'CocoDataset'
data_root = 'data/coco/'
img_norm_cfg = dict({norm})
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', img_scale=(160, 128), keep_ratio=True),
    dict(type='RandomFlip', flip_ratio=0.5),
    dict(type='Normalize', {norm}),
    dict(type='Pad', size_divisor=32),
    dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['img', 'gt_bboxes', 'gt_labels'])
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiScaleFlipAug',
        img_scale=(160, 128),
        flip=False,
        transforms=[
            dict(type='Resize', keep_ratio=True),
            dict(type='RandomFlip'),
            dict(type='Normalize', {norm}),
            dict(type='Pad', size_divisor=32),
            dict(type='ImageToTensor', keys=['img']),
            dict(type='Collect', keys=['img'])
        ])
]
data = dict(
    samples_per_gpu=2,
    workers_per_gpu=0,
    train=dict(
        type='CocoDataset',
        ann_file='data/coco/annotations/instances_train2017.json',
        img_prefix='data/coco/train2017/',
        pipeline=train_pipeline),
    val=dict(
        type='CocoDataset',
        ann_file='data/coco/annotations/instances_val2017.json',
        img_prefix='data/coco/val2017/',
        pipeline=test_pipeline),
    test=dict(
        type='CocoDataset',
        ann_file='data/coco/annotations/instances_val2017.json',
        img_prefix='data/coco/val2017/',
        pipeline=test_pipeline))
evaluation = dict(interval=1, metric='bbox')
optimizer = dict(
    type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001,
    paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0))
optimizer_config = dict(grad_clip=dict(max_norm=35, norm_type=2))
lr_config = dict(policy='step', warmup='constant', warmup_iters=500, warmup_ratio=0.3333333333333333, step=[8, 11])
total_epochs = 12
checkpoint_config = dict(interval=1)
log_config = dict(interval=50, hooks=[dict(type='TextLoggerHook')])
dist_params = dict(backend='nccl')
log_level = 'INFO'
load_from = None
resume_from = None
workflow = [('train', 1)]
work_dir = './work_dirs/old'
gpu_ids = range(0, 8)
"""
CAFFE = "mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0], to_rgb=False"
RGB = "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True"
BODY = """
    backbone=dict(
        type='ResNet', depth=18, base_channels=8, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True, style='pytorch'),"""
ONE_STAGE_TEST = "nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', {iou}=0.5), max_per_img=100"
FCOS = (
    """
model = dict(
    type='FCOS',
    pretrained='open-mmlab://detectron/resnet50_caffe',"""
    + BODY
    + """
    neck=dict(
        type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, start_level=1, add_extra_convs=True,
        extra_convs_on_inputs=False, num_outs=5, relu_before_extra_convs=True),
    bbox_head=dict(
        type='FCOSHead', num_classes=3, in_channels=16, stacked_convs=1, feat_channels=16,
        norm_cfg=None, strides=[8, 16, 32, 64, 128],
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='IoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)))
train_cfg = dict(
    assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
    allowed_border=-1, pos_weight=-1, debug=False)
test_cfg = dict("""
    + ONE_STAGE_TEST.format(iou="iou_thr")
    + ")\n"
)
ANCHOR_NECK = """
    neck=dict(
        type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, start_level=1, add_extra_convs='on_input',
        num_outs=5),"""
RETINANET = (
    """
model = dict(
    type='RetinaNet',
    pretrained='torchvision://resnet50',"""
    + BODY
    + ANCHOR_NECK
    + """
    bbox_head=dict(
        type='RetinaHead', num_classes=3, in_channels=16, stacked_convs=1, feat_channels=16,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict("""
    + ONE_STAGE_TEST.format(iou="iou_threshold")
    + "))\n"
)
FSAF = (
    """
model = dict(
    type='FSAF',
    pretrained='torchvision://resnet50',"""
    + BODY
    + ANCHOR_NECK
    + """
    bbox_head=dict(
        type='FSAFHead', num_classes=3, in_channels=16, stacked_convs=1, feat_channels=16, reg_decoded_bbox=True,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=1, scales_per_octave=1, ratios=[1.0],
            strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type='TBLRBBoxCoder', normalizer=4.0),
        loss_cls=dict(
            type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0, reduction='none'),
        loss_bbox=dict(type='IoULoss', eps=1e-06, loss_weight=1.0, reduction='none')))
train_cfg = dict(
    assigner=dict(type='CenterRegionAssigner', pos_scale=0.2, neg_scale=0.2, min_pos_iof=0.01),
    allowed_border=-1, pos_weight=-1, debug=False)
test_cfg = dict("""
    + ONE_STAGE_TEST.format(iou="iou_thr")
    + ")\n"
)
_STAGE = """dict(
                type='Shared2FCBBoxHead', in_channels=32, fc_out_channels=32, roi_feat_size=7, num_classes=3,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[{stds}]),
                reg_class_agnostic=True,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0))"""
_RCNN = """dict(
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr={iou}, neg_iou_thr={iou}, min_pos_iou={iou},
                match_low_quality=False, ignore_iof_thr=-1),
            sampler=dict(
                type='RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
            pos_weight=-1, debug=False)"""
STDS = ("0.1, 0.1, 0.2, 0.2", "0.05, 0.05, 0.1, 0.1", "0.033, 0.033, 0.067, 0.067")
CASCADE = (
    """
model = dict(
    type='CascadeRCNN',
    pretrained='torchvision://resnet50',
    backbone=dict(
        type='ResNet', depth=50, base_channels=8, stem_channels=8, num_stages=4, out_indices=(0, 1, 2, 3),
        frozen_stages=1, norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True, style='pytorch',
        dcn=dict(type='DCN', deformable_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True)),
    neck=dict(type='FPN', in_channels=[32, 64, 128, 256], out_channels=32, num_outs=5),
    rpn_head=dict(
        type='RPNHead', in_channels=32, feat_channels=32,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='SmoothL1Loss', beta=0.1111111111111111, loss_weight=1.0)),
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', out_size=7, sample_num=0),
            out_channels=32,
            featmap_strides=[4, 8, 16, 32]),
        bbox_head=["""
    + ",\n            ".join(_STAGE.format(stds=stds) for stds in STDS)
    + """]))
train_cfg = dict(
    rpn=dict(
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True,
            ignore_iof_thr=-1),
        sampler=dict(type='RandomSampler', num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False),
        allowed_border=0, pos_weight=-1, debug=False),
    rpn_proposal=dict(
        nms_across_levels=False, nms_pre=2000, nms_post=2000, max_num=2000, nms_thr=0.7, min_bbox_size=0),
    rcnn=["""
    + ",\n        ".join(_RCNN.format(iou=iou) for iou in (0.5, 0.6, 0.7))
    + """])
test_cfg = dict(
    rpn=dict(nms_across_levels=False, nms_pre=60, nms_post=40, max_num=40, nms_thr=0.7, min_bbox_size=0),
    rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_thr=0.5), max_per_img=100))
"""
)
TEXTS = {
    "fcos": FCOS + COMMON.format(norm=CAFFE),
    "fsaf": FSAF + COMMON.format(norm=RGB),
    "retinanet": RETINANET + COMMON.format(norm=RGB),
    "cascade": CASCADE + COMMON.format(norm=RGB),
}


def twin(name: str) -> Config:
    """The same model of mmdet 3.x, from the configuration that it brings along, with the same sizes and pipeline."""
    if name == "cascade":
        config = Config.fromfile(str(shipped("dcn/cascade-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py")))
        model = config.model
        model.backbone.update(init_cfg=None, base_channels=8, stem_channels=8)
        model.neck.update(in_channels=[32, 64, 128, 256], out_channels=32)
        model.rpn_head.update(in_channels=32, feat_channels=32)
        model.roi_head.bbox_roi_extractor.out_channels = 32
        for head in model.roi_head.bbox_head:
            head.update(in_channels=32, fc_out_channels=32, num_classes=len(CLASSES))
        model.test_cfg.rpn.update(nms_pre=60, max_per_img=40)
    else:
        config = small_config({"fcos": "fcos-plain"}.get(name, name))
        config.model.bbox_head.num_classes = len(CLASSES)
    if name == "fcos":
        config.model.data_preprocessor.mean = [102.9801, 115.9465, 122.7717]
    for step in config.test_dataloader.dataset.pipeline:
        if step.type == "Resize":
            step.scale = SCALE
    return config


def write_pair(folder: Path, name: str, text: str | None = None) -> tuple[Path, Path]:
    """The same weights as mmdet 2.x wrote them (DDP, apex, non-zip, ``.pth.tar``), and in a checkpoint of 3.x."""
    from mmdet.registry import MODELS

    start()
    config = twin(name)
    torch.manual_seed(0)
    state = lively(MODELS.build(config.model)).state_dict()
    new = folder / f"{name}_3x.pth"
    torch.save({"meta": {"cfg": config.pretty_text, "dataset_meta": {"classes": CLASSES}}, "state_dict": state}, new)
    old = folder / f"{name}_2x.pth.tar"
    content = {
        "meta": {"mmdet_version": "2.6.0+unknown", "config": text or TEXTS[name], "CLASSES": CLASSES, "epoch": 12,
                 "iter": 87960, "mmcv_version": "1.2.7", "time": "Tue Jun  1 12:00:00 2021", "hook_msgs": {}},
        "state_dict": OrderedDict((f"module.{key}", value) for key, value in state.items()),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "momentum": 0.9, "params": []}]},
        "amp": {"loss_scaler0": {"loss_scale": 32.0, "unskipped": 7}},
    }  # fmt: skip
    torch.save(content, old, _use_new_zipfile_serialization=False)
    return old, new
