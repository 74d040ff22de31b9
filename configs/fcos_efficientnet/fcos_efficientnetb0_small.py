# FCOS-EfficientNet B0 for small data sets (some hundred images) on a CPU: images of 384 x 256, AdamW with cosine decay
# as in fcos/fcos_r18_fpn_small. What is published and what is inferred: fcos_efficientnetb0_512.
# Paper      arXiv 1904.01355, 1905.11946, 1911.09070
# Command    fcos-train train fcos_efficientnet/fcos_efficientnetb0_small --data-path PATH --opt-level O0
#            without the package of pretrained weights: --pretrained none
# Hardware   one device; 2 CPU cores are enough. A step of 8 images takes 1.72 s on two idle cores of an AMD EPYC
#            without AVX-512
# Measured   BCCD, 24 epochs, seed 0, O0. From EfficientNet-Lite0: mAP 0.472, mAP50 0.806 (after 16 epochs: 0.464 and
#            0.787). From random weights: mAP 0.342, mAP50 0.585, 28 minutes of CPU time and 10 of the system on one
#            thread of a busy AMD EPYC, torch 2.13.0, 2026-11-28
_base_ = "./fcos_efficientnetb0_512.py"
image_size = (384, 256)
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
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=test_pipeline))
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
