# fcos_r18_fpn_shapes_bn-head for shapes of all sizes: each level from P3 to P6 has its share of the objects, so that
# the mAP shows a fault of any of them. Images of 256x192 px, a quarter of the 1024x768 px at which the shapes have the
# sizes of FCOS's own ranges; the ranges are a quarter too. Boxes are in strides (norm_on_bbox, AdelaiDet's units).
# Paper      arXiv 1904.01355, version 3; the paper's head has GroupNorm
# Command    fcos-train make-shapes data/shapes_levels --sizes all-levels --size 256 192 --train 400 --val 60
#            fcos-train train fcos/fcos_r18_fpn_shapes_bn-head_levels --data-path data/shapes_levels --seed 0 \
#                --opt-level O0
# Hardware   one device; 2 CPU cores are enough
# Measured   mAP 0.327, mAP50 0.552, 28 minutes on one thread of a busy AMD EPYC, torch 2.13.0, 2026-11-27.
#            With one level switched off, P3 to P6: mAP 0.246, 0.268, 0.280, 0.237
_base_ = "./fcos_r18_fpn_shapes_bn-head.py"
model = dict(
    backbone=dict(base_channels=24),
    neck=dict(in_channels=[24, 48, 96, 192]),
    bbox_head=dict(
        norm_on_bbox=True,
        regress_ranges=((-1, 16), (16, 32), (32, 64), (64, 128), (128, 1e8)),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.0015))
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=6)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True
    ),
]
