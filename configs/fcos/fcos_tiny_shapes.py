# The smallest model that still has every part, for tests: three iterations take a second on a CPU.
# Paper      arXiv 1904.01355, version 3
# Command    fcos-train train fcos/fcos_tiny_shapes --data-path data/shapes --max-iters 20
# Hardware   one CPU core
# Measured   accuracy not measured here: it is too small to learn much
_base_ = "./fcos_r18_fpn_shapes.py"
model = dict(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1, norm_cfg=dict(num_groups=8)),
)
image_size = (96, 80)
train_pipeline = (
    _base_.train_pipeline[:2] + [dict(type="Resize", scale=image_size, keep_ratio=True)] + _base_.train_pipeline[3:]
)
test_pipeline = (
    _base_.test_pipeline[:1] + [dict(type="Resize", scale=image_size, keep_ratio=True)] + _base_.test_pipeline[2:]
)
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=4, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
