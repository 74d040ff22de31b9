# FCOS-RT R-50: three levels (P3 to P5) and images with a shorter side of 512 px. Head and units are those of
# fcos_r50_caffe_fpn_bn-head_adelaidet_1x_coco; weights of AdelaiDet's FCOS-RT with a BatchNorm head load by name. All
# layers of the backbone train, with SyncBN (BatchNorm in a single process). Export: --shape 640 768.
# Inferred   the shorter sides in training (256 to 608 px); levels, ranges, norms and test size are published
# Paper      arXiv 1904.01355, version 3; FCOS-RT is AdelaiDet's, 4x schedule
# Command    bash test/train_full_8p.sh --data_path=/data/coco --config=configs/fcos/fcos_rt_r50_fpn_bn.py
# Hardware   8 devices x 2 images
# Measured   not measured here
_base_ = "./fcos_r50_caffe_fpn_bn-head_adelaidet_1x_coco.py"
INF = 1e8
model = dict(
    backbone=dict(frozen_stages=-1, norm_cfg=dict(type="SyncBN", requires_grad=True), norm_eval=False),
    neck=dict(num_outs=3, add_extra_convs=False),
    bbox_head=dict(strides=[8, 16, 32], regress_ranges=((-1, 64), (64, 128), (128, INF))),
)
scales = [
    (900, 256), (900, 288), (900, 320), (900, 352), (900, 384), (900, 416),
    (900, 448), (900, 480), (900, 512), (900, 544), (900, 576), (900, 608),
]  # fmt: skip
train_pipeline = (
    _base_.train_pipeline[:2]
    + [dict(type="RandomChoiceResize", scales=scales, keep_ratio=True)]
    + _base_.train_pipeline[3:]
)
test_pipeline = (
    _base_.test_pipeline[:1] + [dict(type="Resize", scale=(736, 512), keep_ratio=True)] + _base_.test_pipeline[2:]
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
max_epochs = 48
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = [
    dict(type="ConstantLR", factor=1.0 / 3, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=max_epochs, milestones=[40, 45], gamma=0.1),
]
