# For generated shapes: half the channels of fcos_r18_fpn_small, images of 256x192. More accurate than the model of the
# quickstart, fcos_r18_fpn_quickstart, and several times as long.
# Paper      arXiv 1904.01355, version 3
# Command    fcos-train make-shapes data/shapes --train 400 --val 80
#            fcos-train train fcos/fcos_r18_fpn_shapes --data-path data/shapes --seed 0
# Hardware   one device; 2 CPU cores are enough
# Measured   mAP 0.82 on the 80 validation images, 6.1 minutes as the quickstart of that time, installation included, on
#            two cores of an Intel Xeon (AMX), torch 2.13.0, 2026-11-21
_base_ = "./fcos_r18_fpn_small.py"
image_size = (256, 192)
model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64),
)
train_pipeline = (
    _base_.train_pipeline[:2]
    + [dict(type="Resize", scale=image_size, keep_ratio=True), dict(type="RandomFlip", prob=0.5)]
    + _base_.train_pipeline[4:]
)
test_pipeline = (
    _base_.test_pipeline[:1] + [dict(type="Resize", scale=image_size, keep_ratio=True)] + _base_.test_pipeline[2:]
)
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
max_epochs = 36
train_cfg = dict(max_epochs=max_epochs, val_interval=12)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True
    ),
]
