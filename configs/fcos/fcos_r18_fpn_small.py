# FCOS R-18 for small data sets (some hundred images), trained from scratch, fast on a CPU. Differs from the R-50
# config by 128 channels in neck and head, GroupNorm and two convolutions per tower, AdamW with cosine decay, and the
# three later improvements of FCOS: centre sampling, normalised box targets, GIoU loss.
# Paper      arXiv 1904.01355, version 3
# Command    bash test/train_full_1p.sh --data_path=PATH --config=configs/fcos/fcos_r18_fpn_small.py
# Hardware   one device; 2 CPU cores are enough
# Measured   BCCD (292 training and 72 validation photographs): mAP 0.546, mAP50 0.878 after 24 epochs, 6.8 minutes in
#            all, 19.7 images/s on two cores of an Intel Xeon (AMX), torch 2.13.0, 2026-11-21
_base_ = "./fcos_r50_caffe_fpn_4x4_1x_coco.py"
image_size = (320, 240)
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        depth=18,
        frozen_stages=-1,
        norm_cfg=dict(requires_grad=True),
        norm_eval=False,
        style="pytorch",
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128),
    bbox_head=dict(
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=dict(_delete_=True, type="GN", num_groups=16, requires_grad=True),
        center_sampling=True,
        centerness_on_reg=True,
        norm_on_bbox=True,
        loss_bbox=dict(type="GIoULoss"),
    ),
    test_cfg=dict(nms=dict(iou_threshold=0.6)),
)
train_pipeline = (
    _base_.train_pipeline[:2]
    + [
        dict(type="Resize", scale=image_size, keep_ratio=True),
        dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    ]
    + _base_.train_pipeline[4:]
)
test_pipeline = (
    _base_.test_pipeline[:1] + [dict(type="Resize", scale=image_size, keep_ratio=True)] + _base_.test_pipeline[2:]
)
train_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
max_epochs = 24
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.001, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True
    ),
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(logger=dict(interval=10))
